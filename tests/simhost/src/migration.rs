// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The migration of an assigned device: VFIO's states, and the data of a
//! session.
//!
//! The data is a header and a pattern. A session that saves writes it to a file
//! that QEMU reads; one that resumes checks what QEMU has written when it ends.

use std::{
    collections::VecDeque,
    env, fmt, fs,
    os::{
        fd::{IntoRawFd, RawFd},
        unix::fs::FileExt,
    },
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::errno::{Errno, Result};

/// A state of VFIO's migration (`enum vfio_device_mig_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Only a reset is of use
    Error,
    /// No DMA, no interrupt, no change
    Stop,
    /// Fully operational
    #[default]
    Running,
    /// As `Stop`, and the data can be read
    StopCopy,
    /// As `Stop`, and the data is written
    Resuming,
    /// As `Running`, without DMA to other devices
    RunningP2p,
    /// As `Running`, and the first data can be read
    PreCopy,
    /// Both of these
    PreCopyP2p,
}

/// All states, in the order of their numbers.
const STATES: [(State, &str); 8] = [
    (State::Error, "ERROR"),
    (State::Stop, "STOP"),
    (State::Running, "RUNNING"),
    (State::StopCopy, "STOP_COPY"),
    (State::Resuming, "RESUMING"),
    (State::RunningP2p, "RUNNING_P2P"),
    (State::PreCopy, "PRE_COPY"),
    (State::PreCopyP2p, "PRE_COPY_P2P"),
];

/// The steps of the state machine. Every other transition is several of them.
const STEPS: [(State, State); 15] = [
    (State::RunningP2p, State::Stop),
    (State::StopCopy, State::Stop),
    (State::Resuming, State::Stop),
    (State::PreCopy, State::Running),
    (State::RunningP2p, State::Running),
    (State::PreCopyP2p, State::RunningP2p),
    (State::Running, State::RunningP2p),
    (State::Stop, State::RunningP2p),
    (State::Running, State::PreCopy),
    (State::RunningP2p, State::PreCopyP2p),
    (State::Stop, State::StopCopy),
    (State::PreCopy, State::PreCopyP2p),
    (State::PreCopyP2p, State::PreCopy),
    (State::PreCopyP2p, State::StopCopy),
    (State::Stop, State::Resuming),
];

impl State {
    /// Returns the state with this number.
    pub fn of(number: u32) -> Option<Self> {
        STATES.get(number as usize).map(|(state, _)| *state)
    }

    /// Returns its number.
    pub fn number(self) -> u32 {
        let position = STATES.iter().position(|(state, _)| *state == self);
        position.unwrap_or_default() as u32
    }

    /// Returns its name in scripts and logs.
    pub fn name(self) -> &'static str {
        STATES[self.number() as usize].1
    }

    /// Returns whether the state is one of those in which data can be read.
    const fn is_saving(self) -> bool {
        matches!(self, Self::StopCopy | Self::PreCopy | Self::PreCopyP2p)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a device can do, by its line in the script: `migration=` with
/// `stop-copy`, `p2p`, `precopy`, `dma-logging`, and `size:` with the bytes of
/// its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    p2p: bool,
    precopy: bool,
    /// Whether it can log its DMA
    pub dma_logging: bool,
    /// The bytes of its data
    pub size: u64,
}

/// `VFIO_MIGRATION_STOP_COPY`
const STOP_COPY: u64 = 1 << 0;
/// `VFIO_MIGRATION_P2P`
const P2P: u64 = 1 << 1;
/// `VFIO_MIGRATION_PRE_COPY`
const PRE_COPY: u64 = 1 << 2;

impl Capabilities {
    /// Returns those of a line in the script.
    pub fn parse(text: &str) -> Option<Self> {
        let mut capabilities = Self {
            p2p: false,
            precopy: false,
            dma_logging: false,
            size: 8192,
        };
        let mut words = text.split(',');
        if words.next() != Some("stop-copy") {
            return None;
        }
        for word in words {
            match word.split_once(':') {
                None if word == "p2p" => capabilities.p2p = true,
                None if word == "precopy" => capabilities.precopy = true,
                None if word == "dma-logging" => capabilities.dma_logging = true,
                Some(("size", bytes)) => capabilities.size = bytes.parse().ok()?,
                _ => return None,
            }
        }
        (capabilities.size >= HEADER as u64).then_some(capabilities)
    }

    /// Returns the flags that `VFIO_DEVICE_FEATURE_MIGRATION` reports.
    pub const fn flags(self) -> u64 {
        let mut flags = STOP_COPY;
        if self.p2p {
            flags |= P2P;
        }
        if self.precopy {
            flags |= PRE_COPY;
        }
        flags
    }

    /// Returns whether the device has a state.
    pub const fn has(self, state: State) -> bool {
        match state {
            State::RunningP2p => self.p2p,
            State::PreCopy => self.precopy,
            State::PreCopyP2p => self.precopy && self.p2p,
            _ => true,
        }
    }

    /// Returns the states from `from` to `to`, without the first. The path is
    /// the shortest, and states in which data can be read are on it only if it
    /// begins and ends in such a state. States that the device lacks are left
    /// out.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no such path, or the device lacks the state.
    pub fn path(self, from: State, to: State) -> Result<Vec<State>> {
        let is_backwards = from == State::StopCopy && to != State::StopCopy && to.is_saving();
        if to == State::Error || !self.has(to) || is_backwards {
            return Err(Errno::EINVAL);
        }
        let stays_saving = from.is_saving() && to.is_saving();
        let mut paths = VecDeque::from([vec![from]]);
        while let Some(path) = paths.pop_front() {
            let last = path.last().copied().unwrap_or(from);
            if last == to {
                let steps = path.into_iter().skip(1);
                return Ok(steps.filter(|state| self.has(*state)).collect());
            }
            for (_, next) in STEPS.iter().filter(|(start, _)| *start == last) {
                let is_allowed = *next == to || stays_saving || !next.is_saving();
                if is_allowed && !path.contains(next) {
                    paths.push_back([&path[..], &[*next]].concat());
                }
            }
        }
        Err(Errno::EINVAL)
    }
}

/// The first bytes of the data: a mark, and the length of all of it.
const MARK: &[u8; 8] = b"simhost1";
const HEADER: usize = 16;

/// Returns the data of a device.
fn data(size: u64) -> Vec<u8> {
    let mut bytes = Vec::from(MARK.as_slice());
    bytes.extend(size.to_le_bytes());
    bytes.extend((HEADER as u64..size).map(|at| (at % 251) as u8));
    bytes
}

/// Returns whether these are the data of a device.
fn is_data(bytes: &[u8]) -> bool {
    bytes == data(bytes.len() as u64)
}

/// The transfer of data that goes on.
#[derive(Debug)]
struct Session {
    file: fs::File,
    /// The bytes that were written so far by a session that saves
    written: usize,
}

impl Session {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("simhost-data-{}-{number}", process::id()));
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|_| Errno::ENOSPC)?;
        let _ = fs::remove_file(path);
        Ok(Self { file, written: 0 })
    }

    /// Writes the data up to the byte `end`.
    fn write_to(&mut self, end: usize, size: u64) -> Result<()> {
        let bytes = data(size);
        let part = bytes.get(self.written..end).unwrap_or_default();
        let result = self.file.write_all_at(part, self.written as u64);
        self.written = self.written.max(end);
        result.map_err(|_| Errno::ENOSPC)
    }

    /// Returns what was written.
    fn bytes(&self) -> Vec<u8> {
        let length = self.file.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let complete = self.file.read_exact_at(&mut bytes, 0).is_ok();
        bytes.truncate(if complete { bytes.len() } else { 0 });
        bytes
    }
}

/// The migration of one device.
#[derive(Debug, Default)]
pub struct Migration {
    state: State,
    session: Option<Session>,
}

impl Migration {
    /// Returns the state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Follows a reset. Returns whether the state has changed.
    pub fn reset(&mut self) -> bool {
        self.session = None;
        std::mem::replace(&mut self.state, State::Running) != State::Running
    }

    /// Makes one step. Returns the file of a session that begins, which the
    /// caller has to close.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the data that was written is not a device's, which leaves the
    /// device in the state ERROR.
    pub fn enter(&mut self, next: State, capabilities: Capabilities) -> Result<Option<RawFd>> {
        let size = capabilities.size;
        if self.state == State::Resuming {
            let ended = self.session.take();
            if !ended.is_some_and(|session| is_data(&session.bytes())) {
                self.state = State::Error;
                return Err(Errno::EINVAL);
            }
        } else if self.state.is_saving() && !next.is_saving() {
            self.session = None;
        }
        let is_new = self.session.is_none() && (next.is_saving() || next == State::Resuming);
        if is_new {
            self.session = Some(Session::new()?);
        }
        if let Some(session) = &mut self.session {
            match next {
                State::StopCopy => session.write_to(size as usize, size)?,
                State::PreCopy | State::PreCopyP2p => session.write_to(HEADER, size)?,
                _ => {}
            }
        }
        self.state = next;
        let file = self.session.as_ref().filter(|_| is_new);
        let copy = file.map(|session| session.file.try_clone());
        let copy = copy.transpose().map_err(|_| Errno::ENOMEM)?;
        Ok(copy.map(IntoRawFd::into_raw_fd))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn capable(text: &str) -> Capabilities {
        Capabilities::parse(text).expect("good capabilities")
    }

    const ALL: &str = "stop-copy,p2p,precopy,size:100";

    #[test]
    fn migration_states_have_the_numbers_of_the_api() {
        for number in 0..8 {
            let state = State::of(number).expect("a state");
            assert_eq!(state.number(), number);
        }
        assert_eq!(State::of(8), None);
        assert_eq!(State::of(4).map(State::name), Some("RESUMING"));
    }

    #[test]
    fn migration_capabilities_are_parsed() {
        assert_eq!(capable("stop-copy").flags(), 1);
        assert_eq!(capable(ALL).flags(), 7);
        assert!(capable("stop-copy,dma-logging").dma_logging);
        for bad in [
            "",
            "p2p",
            "stop-copy,size:1",
            "stop-copy,size:x",
            "stop-copy,fast",
        ] {
            assert_eq!(Capabilities::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn migration_takes_the_shortest_path() {
        use State::{Error, PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};
        let all = capable(ALL);
        for (from, to, path) in [
            (Running, Stop, &[RunningP2p, Stop][..]),
            (Running, StopCopy, &[RunningP2p, Stop, StopCopy]),
            (Running, Resuming, &[RunningP2p, Stop, Resuming]),
            (Resuming, Running, &[Stop, RunningP2p, Running]),
            (Resuming, RunningP2p, &[Stop, RunningP2p]),
            (StopCopy, Running, &[Stop, RunningP2p, Running]),
            (StopCopy, Resuming, &[Stop, Resuming]),
            (PreCopy, StopCopy, &[PreCopyP2p, StopCopy]),
            (PreCopy, Stop, &[Running, RunningP2p, Stop]),
            (PreCopyP2p, Stop, &[RunningP2p, Stop]),
            (RunningP2p, PreCopy, &[Running, PreCopy]),
            (Stop, PreCopy, &[RunningP2p, Running, PreCopy]),
            (Stop, Stop, &[]),
        ] {
            assert_eq!(all.path(from, to), Ok(path.to_vec()), "{from} to {to}");
        }
        for (from, to) in [
            (StopCopy, PreCopy),
            (StopCopy, PreCopyP2p),
            (Running, Error),
            (Error, Running),
        ] {
            assert_eq!(all.path(from, to), Err(Errno::EINVAL), "{from} to {to}");
        }
    }

    #[test]
    fn migration_states_that_a_device_lacks_are_left_out() {
        use State::{PreCopy, Running, RunningP2p, Stop, StopCopy};
        let plain = capable("stop-copy");
        assert_eq!(plain.path(Running, StopCopy), Ok(vec![Stop, StopCopy]));
        assert_eq!(plain.path(Stop, Running), Ok(vec![Running]));
        assert_eq!(plain.path(Running, RunningP2p), Err(Errno::EINVAL));
        assert_eq!(plain.path(Running, PreCopy), Err(Errno::EINVAL));
        let precopy = capable("stop-copy,precopy");
        assert_eq!(precopy.path(PreCopy, StopCopy), Ok(vec![StopCopy]));
    }

    /// Opens the file of a session once more.
    fn opened(fd: Option<RawFd>) -> fs::File {
        let path = format!("/proc/self/fd/{}", fd.expect("a session begins"));
        fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("an open file")
    }

    #[test]
    fn migration_data_passes_from_one_device_to_another() {
        let all = capable(ALL);
        let mut source = Migration::default();
        let mut from = opened(source.enter(State::PreCopy, all).expect("a step"));
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("the first part");
        assert_eq!(bytes.len(), HEADER);
        assert_eq!(source.enter(State::PreCopyP2p, all), Ok(None));
        assert_eq!(source.enter(State::StopCopy, all), Ok(None));
        from.read_to_end(&mut bytes).expect("the rest");
        assert_eq!(bytes.len(), 100);

        let mut target = Migration::default();
        let mut to = opened(target.enter(State::Resuming, all).expect("a step"));
        to.write_all(&bytes).expect("it is written");
        assert_eq!(target.enter(State::Stop, all), Ok(None));
        assert_eq!(target.state(), State::Stop);
        assert!(target.reset());
        assert!(!target.reset());
    }

    #[test]
    fn migration_data_of_no_device_is_an_error() {
        let all = capable(ALL);
        for bad in [&data(100)[..99], &data(50)[1..], &[]] {
            let mut target = Migration::default();
            let mut to = opened(target.enter(State::Resuming, all).expect("a step"));
            to.write_all(bad).expect("it is written");
            assert_eq!(target.enter(State::Stop, all), Err(Errno::EINVAL));
            assert_eq!(target.state(), State::Error);
            assert!(target.reset());
        }
    }
}
