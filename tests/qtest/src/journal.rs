// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The simulated host's log: the calls, the objects, and the HWPT that each device is
//! attached to.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// The translation that an assigned device is attached to in the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Nothing: its transactions are blocked
    Nothing,
    /// Stage 2 alone, as VFIO attached it: the guest's memory
    Stage2,
    /// The abort HWPT of the vIOMMU
    Abort,
    /// The bypass HWPT of the vIOMMU
    Bypass,
    /// A nested HWPT made of these words of an STE
    Nested([u64; 2]),
}

impl fmt::Debug for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Stage2 => f.write_str("stage 2"),
            Self::Abort => f.write_str("abort"),
            Self::Bypass => f.write_str("bypass"),
            Self::Nested(ste) => write!(f, "nested {ste:#x?}"),
        }
    }
}

/// Calls that create or destroy an object, attach a device, or invalidate.
const CHANGING: [&str; 7] = [
    "VIOMMU_ALLOC",
    "VDEVICE_ALLOC",
    "HWPT_ALLOC",
    "HWPT_INVALIDATE",
    "ATTACH",
    "DETACH",
    "DESTROY",
];

/// The state of a device that does not migrate
const RUNNING: &str = "RUNNING";

/// Returns whether a device may do DMA in this state of its migration.
fn may_do_dma(state: &str) -> bool {
    matches!(state, RUNNING | "RUNNING_P2P" | "PRE_COPY" | "PRE_COPY_P2P")
}

/// Notes an attachment in a state in which the device may do DMA, unless it is the
/// last one.
fn note(found: &mut Vec<On>, on: Option<On>, state: &str) {
    if let Some(now) = on.filter(|_| may_do_dma(state)) {
        if found.last() != Some(&now) {
            found.push(now);
        }
    }
}

/// A line of the log: its first word, and its fields.
#[derive(Clone, Debug)]
pub struct Line {
    word: String,
    fields: BTreeMap<String, String>,
}

impl Line {
    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let word = words.next().unwrap_or_default().to_owned();
        let fields = words
            .filter_map(|field| field.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { word, fields }
    }

    /// Returns a field, or an empty string.
    pub fn text(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    /// Returns a field that is a number.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        number(self.text(key))
    }

    /// Returns a field of commands or of the words of an STE.
    #[track_caller]
    pub fn words(&self, key: &str) -> Vec<[u64; 2]> {
        let text = self.text(key);
        text.split(';')
            .filter_map(|pair| pair.split_once(':'))
            .map(|(first, second)| [number(first), number(second)])
            .collect()
    }

    /// Returns the process that made a call, if the host is shared.
    fn process(&self) -> Option<u32> {
        let by = self.text("by");
        (!by.is_empty()).then(|| number(by) as u32)
    }

    fn device(&self) -> Device {
        let on = match self.text("kind") {
            "none" => On::Nothing,
            "s2" => On::Stage2,
            "abort" => On::Abort,
            "bypass" => On::Bypass,
            "nested" => On::Nested(self.words("ste")[0]),
            kind => panic!("a device is on something unknown: {kind}"),
        };
        let number = |key| (!self.text(key).is_empty()).then(|| self.number(key));
        Device {
            on,
            sid: number("sid"),
        }
    }
}

#[track_caller]
fn number(text: &str) -> u64 {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    value.unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// A device in the host.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// The HWPT that it is attached to
    pub on: On,
    /// The guest's `StreamID` that the host reports its events with
    pub sid: Option<u64>,
}

/// An ioctl that was made.
#[derive(Clone, Debug)]
pub struct Call(Line);

impl Call {
    /// Returns its name.
    pub fn operation(&self) -> &str {
        self.0.text("op")
    }

    /// Returns the process that made it, if the host is shared.
    pub fn process(&self) -> Option<u32> {
        self.0.process()
    }

    /// Returns a field that is a number.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        self.0.number(key)
    }

    /// Returns its errno, or `ok`.
    pub fn result(&self) -> &str {
        self.0.text("result")
    }

    /// Returns the kind of HWPT that it is about.
    pub fn kind(&self) -> &str {
        self.0.text("kind")
    }

    /// Returns the commands of an invalidation.
    #[track_caller]
    pub fn commands(&self) -> Vec<[u64; 2]> {
        self.0.words("cmds")
    }
}

/// The log, read as it grows.
pub struct Journal {
    path: PathBuf,
    offset: u64,
    devices: BTreeMap<String, Device>,
    /// The migration states of devices that have left RUNNING once
    states: BTreeMap<String, String>,
    /// Both of these at the last mark
    marked: (BTreeMap<String, Device>, BTreeMap<String, String>),
    /// The lines `new` of the objects of all iommufds, by iommufd and ID
    objects: BTreeMap<(String, u64), Line>,
    /// Lines since the last mark
    recent: Vec<Line>,
    /// Number of calls since the beginning, by operation, and by process if the host is shared
    totals: BTreeMap<(String, Option<u32>), u64>,
}

impl Journal {
    /// Returns the log in `path`, from its beginning.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            offset: 0,
            devices: BTreeMap::new(),
            states: BTreeMap::new(),
            marked: Default::default(),
            objects: BTreeMap::new(),
            recent: Vec::new(),
            totals: BTreeMap::new(),
        }
    }

    /// Reads the lines that were added.
    #[track_caller]
    pub fn update(&mut self) {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(&self.path) {
            let size = file.metadata().expect("size of the log").len();
            bytes.resize((size - self.offset) as usize, 0);
            file.read_exact_at(&mut bytes, self.offset)
                .expect("the log");
            self.offset = size;
        }
        for text in String::from_utf8_lossy(&bytes).lines() {
            assert!(!text.starts_with("trouble"), "the simulated host: {text}");
            let line = Line::parse(text);
            self.apply(&line);
            self.recent.push(line);
        }
    }

    fn apply(&mut self, line: &Line) {
        let object = || (line.text("on").to_owned(), line.number("id"));
        match line.word.as_str() {
            "device" => {
                let name = line.text("name").to_owned();
                self.devices.insert(name, line.device());
            }
            "migration" => {
                let name = line.text("name").to_owned();
                self.states.insert(name, line.text("state").to_owned());
            }
            "new" => {
                self.objects.insert(object(), line.clone());
            }
            "call" => {
                let key = (line.text("op").to_owned(), line.process());
                *self.totals.entry(key).or_default() += 1;
            }
            "gone" => {
                self.objects.remove(&object());
            }
            _ => {}
        }
    }

    /// Drops the calls that were made so far.
    pub fn mark(&mut self) {
        self.recent.clear();
        self.marked = (self.devices.clone(), self.states.clone());
    }

    /// Returns the state of the device's migration, such as `RUNNING`.
    pub fn migration_state(&self, name: &str) -> &str {
        self.states.get(name).map_or(RUNNING, String::as_str)
    }

    /// Returns the states of the device's migration since the mark, in order.
    pub fn migration_states(&self, name: &str) -> Vec<&str> {
        self.recent
            .iter()
            .filter(|line| line.word == "migration" && line.text("name") == name)
            .map(|line| line.text("state"))
            .collect()
    }

    /// Returns whether the device `name` may do DMA now.
    pub fn may_do_dma(&self, name: &str) -> bool {
        may_do_dma(self.migration_state(name))
    }

    /// Returns the attachments that the device `name` had since the mark while it
    /// could do DMA, in order. If it has got the state of another one since, those
    /// before that are another guest's, and left out.
    pub fn attached_during_dma(&self, name: &str) -> Vec<On> {
        let (devices, states) = &self.marked;
        let mut on = devices.get(name).map(|device| device.on);
        let mut state = states.get(name).map_or(RUNNING, String::as_str);
        let mut found = Vec::new();
        note(&mut found, on, state);
        for line in self.recent.iter().filter(|line| line.text("name") == name) {
            match line.word.as_str() {
                "device" => on = Some(line.device().on),
                "migration" => state = line.text("state"),
                _ => continue,
            }
            if state == "RESUMING" {
                found.clear();
            }
            note(&mut found, on, state);
        }
        found
    }

    /// Returns the device `name`.
    pub fn device(&self, name: &str) -> Option<Device> {
        self.devices.get(name).copied()
    }

    /// Returns how many objects of each kind there are.
    pub fn objects(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for line in self.objects.values() {
            *counts.entry(line.text("kind")).or_default() += 1;
        }
        counts
    }

    /// Returns the objects of this kind, as the log describes them.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Line> {
        let objects = self.objects.values();
        objects.filter(move |line| line.text("kind") == kind)
    }

    /// Returns the hardware queues that were created and destroyed since the
    /// mark, such as `new 0` and `gone 0`, in order.
    pub fn queue_changes(&self) -> Vec<String> {
        self.recent
            .iter()
            .filter(|line| line.text("kind") == "hwqueue")
            .map(|line| format!("{} {}", line.word, line.text("index")))
            .collect()
    }

    /// Returns the ID of an object of this kind.
    pub fn id(&self, kind: &str) -> Option<u64> {
        let mut objects = self.objects.iter();
        objects
            .find(|(_, line)| line.text("kind") == kind)
            .map(|((_, id), _)| *id)
    }

    /// Returns the calls of `operation` since the mark, in order.
    pub fn calls(&self, operation: &str) -> Vec<Call> {
        self.recent
            .iter()
            .filter(|line| line.word == "call" && line.text("op") == operation)
            .cloned()
            .map(Call)
            .collect()
    }

    /// Returns the number of invalidations with a latency that have begun since the mark.
    pub fn begun(&self) -> usize {
        let lines = self.recent.iter();
        lines.filter(|line| line.word == "begin").count()
    }

    /// Returns how often `operation` was called since the beginning: by `process`, if the host is
    /// shared.
    pub fn total(&self, operation: &str, process: u32) -> u64 {
        let is_counted = |by: &Option<u32>| by.is_none_or(|by| by == process);
        let totals = self.totals.iter();
        totals
            .filter(|((name, by), _)| name == operation && is_counted(by))
            .map(|(_, count)| count)
            .sum()
    }

    /// Returns the names of the calls since the mark that change what is
    /// translated or cached, in order.
    pub fn order(&self) -> Vec<&str> {
        self.recent
            .iter()
            .filter(|line| line.word == "call")
            .map(|line| line.text("op"))
            .filter(|operation| CHANGING.contains(operation))
            .collect()
    }

    /// Returns how often the function of device `name` was reset since the
    /// mark.
    pub fn function_level_resets(&self, name: &str) -> usize {
        self.recent
            .iter()
            .filter(|line| line.word == "flr" && line.text("device") == name)
            .count()
    }

    /// Returns the attachments of the device `name` since the mark, in order.
    pub fn history(&self, name: &str) -> Vec<On> {
        self.recent
            .iter()
            .filter(|line| line.word == "device" && line.text("name") == name)
            .map(|line| line.device().on)
            .collect()
    }

    /// Returns the commands of each invalidation since the mark.
    pub fn batches(&self) -> Vec<Vec<[u64; 2]>> {
        self.calls("HWPT_INVALIDATE")
            .iter()
            .map(Call::commands)
            .collect()
    }

    /// Returns how many calls since the mark have failed.
    pub fn failures(&self) -> usize {
        self.recent
            .iter()
            .filter(|line| line.word == "call" && line.text("result") != "ok")
            .count()
    }

    /// Returns how many calls of these operations since the mark have failed.
    pub fn failures_of(&self, operations: &[&str]) -> usize {
        let calls = operations.iter().flat_map(|name| self.calls(name));
        calls.filter(|call| call.result() != "ok").count()
    }

    /// Returns the blocks of commands that the SMMU `smmu` has completed since
    /// the mark, as the host issued them.
    pub fn issued(&self, smmu: &str) -> Vec<Vec<[u64; 2]>> {
        self.recent
            .iter()
            .filter(|line| line.word == "issue" && line.text("smmu") == smmu)
            .map(|line| line.words("cmds"))
            .collect()
    }
}
