// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A vhost-user backend without queue processing: it negotiates features,
//! requests translations, and records invalidations.

use std::{
    io::{self, Read, Write},
    mem,
    net::Shutdown,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use smmuv3_qtest::{Builder, TIMEOUT};

/// Requests that are not only acknowledged.
mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const GET_VRING_BASE: u32 = 11;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const IOTLB_MSG: u32 = 22;
}

/// The only request of the backend.
const BACKEND_IOTLB_MSG: u32 = 1;

/// Flags of a message: version 1, reply, reply wanted.
const VERSION: u32 = 1;
const ANSWER: u32 = 1 << 2;
const WANTS_ANSWER: u32 = 1 << 3;

/// `VIRTIO_F_VERSION_1`, `VIRTIO_F_ACCESS_PLATFORM`, and that there are protocol features
const FEATURES: u64 = (1 << 32) | (1 << 33) | (1 << 30);
/// Replies on demand, and requests of the backend
const PROTOCOL_FEATURES: u64 = (1 << 3) | (1 << 5);

/// Kinds of messages about translations.
const MISS: u8 = 1;
const UPDATE: u8 = 2;
const INVALIDATE: u8 = 3;

/// Delay before the backend acknowledges an invalidation, which exposes callers
/// that do not wait for it.
const SLOWNESS: Duration = Duration::from_millis(3);

/// The access that is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read = 1,
    Write = 2,
}

/// A translation that QEMU has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    pub iova: u64,
    pub size: u64,
    /// Guest physical address
    pub address: u64,
}

impl Translation {
    /// Returns the output address of `iova`.
    pub const fn of(&self, iova: u64) -> Option<u64> {
        match iova.checked_sub(self.iova) {
            Some(offset) if offset < self.size => Some(self.address + offset),
            _ => None,
        }
    }
}

/// An invalidated range: the first and the last address.
pub type Invalidation = (u64, u64);

/// A region of guest memory in QEMU's address space.
#[derive(Clone, Copy, Debug)]
struct Region {
    guest: u64,
    size: u64,
    user: u64,
}

#[derive(Default)]
struct State {
    memory: Vec<Region>,
    /// The socket for requests, once QEMU has sent it
    requests: Option<UnixStream>,
    update: Option<Translation>,
    invalidations: Vec<Invalidation>,
    /// Exit at the next invalidation
    exits_on_invalidation: bool,
    exited: bool,
}

/// The backend: a thread of the test.
pub struct Backend {
    state: Arc<Mutex<State>>,
    /// The connection to QEMU, to close it
    connection: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Serves the character device `id` of a QEMU that is not started yet.
    pub fn new(builder: Builder, id: &str) -> (Builder, Self) {
        let mut with_socket = builder;
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let number = with_socket.fd(theirs.into());
        let state = Arc::new(Mutex::new(State::default()));
        let server = Server {
            stream: ours.try_clone().expect("a descriptor"),
            state: Arc::clone(&state),
        };
        let backend = Self {
            state,
            connection: ours,
            thread: Some(thread::spawn(move || server.serve())),
        };
        let chardev = format!("socket,id={id},fd={number}");
        (with_socket.args(["-chardev", &chardev]), backend)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Requests the translation of `iova`; `None` if the access is refused.
    #[track_caller]
    pub fn translate(&self, iova: u64, access: Access) -> Option<Translation> {
        let mut state = self.state();
        state.update = None;
        let Some(stream) = &state.requests else {
            panic!("QEMU takes no requests");
        };
        let mut requests = stream.try_clone().expect("a descriptor");
        drop(state);
        let message = Message {
            request: BACKEND_IOTLB_MSG,
            flags: VERSION | WANTS_ANSWER,
            payload: iotlb(iova, access as u8, MISS),
        };
        message.send(&mut requests).expect("a request to QEMU");
        let answer = Message::receive(&mut requests)
            .expect("QEMU's answer")
            .expect("QEMU's answer")
            .0;
        match answer.word(0) {
            0 => Some(self.state().update.take().expect("a translation")),
            _ => None,
        }
    }

    /// Makes the backend exit at the next invalidation, without a reply.
    pub fn exit_on_invalidation(&self) {
        self.state().exits_on_invalidation = true;
    }

    /// Returns the ranges that were invalidated since the last call.
    pub fn invalidations(&self) -> Vec<Invalidation> {
        mem::take(&mut self.state().invalidations)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.connection.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the payload of an IOTLB message; a request has no size and no
/// address.
fn iotlb(iova: u64, access: u8, kind: u8) -> Vec<u8> {
    let mut payload = vec![0; 32];
    payload[..8].copy_from_slice(&iova.to_le_bytes());
    payload[24] = access;
    payload[25] = kind;
    payload
}

struct Server {
    stream: UnixStream,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves QEMU until it closes the connection.
    fn serve(mut self) {
        while let Ok(Some((message, fds))) = Message::receive(&mut self.stream) {
            let answer = self.handle(&message, fds);
            if lock(&self.state).exited {
                let _ = self.stream.shutdown(Shutdown::Both);
                return;
            }
            let wanted = message.flags & WANTS_ANSWER != 0;
            let payload = match answer {
                Some(payload) => payload,
                None if wanted => 0_u64.to_le_bytes().to_vec(),
                None => continue,
            };
            let reply = Message {
                request: message.request,
                flags: VERSION | ANSWER,
                payload,
            };
            if reply.send(&mut self.stream).is_err() {
                return;
            }
        }
    }

    /// Handles a message and returns the reply that it always gets.
    fn handle(&self, message: &Message, fds: Vec<OwnedFd>) -> Option<Vec<u8>> {
        match message.request {
            request::GET_FEATURES => Some(FEATURES.to_le_bytes().to_vec()),
            request::GET_PROTOCOL_FEATURES => Some(PROTOCOL_FEATURES.to_le_bytes().to_vec()),
            // the queue's number, and a used index of 0
            request::GET_VRING_BASE => Some(message.payload[..4].repeat(2)),
            request::SET_MEM_TABLE => {
                lock(&self.state).memory = message.regions();
                None
            }
            request::SET_BACKEND_REQ_FD => {
                let stream = fds.into_iter().next().map(UnixStream::from);
                if let Some(requests) = &stream {
                    let _ = requests.set_read_timeout(Some(*TIMEOUT));
                }
                lock(&self.state).requests = stream;
                None
            }
            request::IOTLB_MSG => {
                self.translation(message);
                None
            }
            _ => None,
        }
    }

    fn translation(&self, message: &Message) {
        let (iova, size, user) = (message.word(0), message.word(8), message.word(16));
        match message.payload[25] {
            UPDATE => {
                let mut state = lock(&self.state);
                let region = state
                    .memory
                    .iter()
                    .find(|region| (region.user..region.user + region.size).contains(&user));
                state.update = region.map(|region| Translation {
                    iova,
                    size,
                    address: user - region.user + region.guest,
                });
            }
            // DPDK ignores it, and Linux 5.17 to 6.5 refuses it
            INVALIDATE if size == 0 => (),
            INVALIDATE => {
                thread::sleep(SLOWNESS);
                let last = iova.wrapping_add(size).wrapping_sub(1);
                let mut state = lock(&self.state);
                state.invalidations.push((iova, last));
                state.exited = state.exits_on_invalidation;
            }
            _ => (),
        }
    }
}

/// A message of either direction.
struct Message {
    request: u32,
    flags: u32,
    payload: Vec<u8>,
}

impl Message {
    fn send(&self, stream: &mut UnixStream) -> io::Result<()> {
        let words = [self.request, self.flags, self.payload.len() as u32];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(&self.payload);
        stream.write_all(&bytes)
    }

    /// Returns the next message with its descriptors, or `None` at the end.
    fn receive(stream: &mut UnixStream) -> io::Result<Option<(Self, Vec<OwnedFd>)>> {
        let mut header = [0; 12];
        let Some(fds) = receive_with_fds(stream, &mut header)? else {
            return Ok(None);
        };
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        let mut payload = vec![0; word(8) as usize];
        stream.read_exact(&mut payload)?;
        let message = Self {
            request: word(0),
            flags: word(4),
            payload,
        };
        Ok(Some((message, fds)))
    }

    /// Returns the 64 bits at an offset of the payload, 0 beyond its end.
    fn word(&self, at: usize) -> u64 {
        let byte = |index| self.payload.get(at + index).copied().unwrap_or_default();
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(byte))
    }

    /// Returns the regions of a memory table.
    fn regions(&self) -> Vec<Region> {
        let count = self.word(0) as u32 as usize;
        let region = |index: usize| Region {
            guest: self.word(8 + 32 * index),
            size: self.word(16 + 32 * index),
            user: self.word(24 + 32 * index),
        };
        (0..count).map(region).collect()
    }
}

/// Most descriptors that come with a message.
const MOST_FDS: usize = 8;

/// Fills `buffer` and takes the descriptors that came with its first byte.
fn receive_with_fds(
    stream: &mut UnixStream,
    buffer: &mut [u8],
) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut control = [0_u64; 16];
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all bits zero is a msghdr that describes nothing.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control);
    // SAFETY: the header describes buffers that live until the end.
    let count =
        unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let Ok(received) = usize::try_from(count) else {
        return Err(io::Error::last_os_error());
    };
    if received == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has filled in the header.
    let fds = unsafe { descriptors(&header) };
    stream.read_exact(&mut buffer[received..])?;
    Ok(Some(fds))
}

/// Returns the descriptors of a received message.
///
/// # Safety
///
/// `header` is as `recvmsg` left it, its control buffer is alive, and nothing
/// else owns the descriptors.
unsafe fn descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the macros stay within the control buffer that the kernel filled.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(header);
        if control.is_null() || (*control).cmsg_type != libc::SCM_RIGHTS {
            return fds;
        }
        let bytes = (*control).cmsg_len - libc::CMSG_LEN(0) as usize;
        let data = libc::CMSG_DATA(control).cast::<i32>();
        for index in 0..(bytes / mem::size_of::<i32>()).min(MOST_FDS) {
            fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
        }
    }
    fds
}
