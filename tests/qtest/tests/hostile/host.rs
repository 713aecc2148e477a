// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Random failures of the simulated host.

use std::os::unix::net::UnixDatagram;

use smmuv3_qtest::{assigned::Bench, Random};

use crate::generator::{below, once_in};

const ERRNOS: [&str; 20] = [
    "E2BIG",
    "EACCES",
    "EAGAIN",
    "EBADF",
    "EBUSY",
    "EEXIST",
    "EFAULT",
    "EINVAL",
    "EIO",
    "EMSGSIZE",
    "ENODEV",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "ENOTTY",
    "ENXIO",
    "EOPNOTSUPP",
    "EPERM",
    "ERANGE",
    "ETIMEDOUT",
];

/// The calls that fail; the important ones are listed several times.
pub const CALLS: [&str; 14] = [
    "HWPT_INVALIDATE",
    "HWPT_INVALIDATE",
    "HWPT_INVALIDATE",
    "HWPT_INVALIDATE",
    "HWPT_ALLOC kind=nested",
    "ATTACH",
    "ATTACH kind=nested",
    "ATTACH kind=bypass",
    "ATTACH kind=abort",
    "DETACH",
    "VDEVICE_ALLOC",
    "VEVENTQ_ALLOC",
    "VIOMMU_ALLOC",
    "GET_HW_INFO",
];

/// As above, for a guest with CMDQ virtualization. Any of the above fails, too.
pub const CMDQV_CALLS: [&str; 14] = [
    "HW_QUEUE_ALLOC",
    "HW_QUEUE_ALLOC",
    "HW_QUEUE_ALLOC index=0",
    "HW_QUEUE_ALLOC index=1",
    "DESTROY kind=hwqueue",
    "DESTROY kind=hwqueue",
    "DESTROY kind=hwqueue index=0",
    "DESTROY kind=hwqueue index=1",
    "DESTROY kind=cmdqv-viommu",
    "MMAP",
    "VIOMMU_ALLOC kind=cmdqv-viommu",
    "VEVENTQ_ALLOC kind=cmdqv-veventq",
    "VEVENTQ_READ",
    "GET_HW_INFO kind=cmdqv",
];

/// Contracts by which kernels report an illegal command.
pub const CONTRACTS: [&str; 3] = ["unvalidated", "validating", "block-start"];

/// Returns a line of the script that injects a failure of one of these calls.
pub fn failure(random: &mut Random, calls: &[&str]) -> String {
    let call = random.of(calls);
    let mut line = format!("fail {call}");
    match below(random, 8) {
        0 => {
            // only a delay
            let (time, count) = (1 + below(random, 4), 1 + below(random, 10));
            return format!("{line} delay_ms={time} count={count}");
        }
        // no host interrupts a system call every time
        1 => line += &format!(" errno=EINTR count={}", 1 + below(random, 3)),
        2 | 3 => {
            line += &format!(
                " errno={} count={}",
                random.of(&ERRNOS),
                1 + below(random, 4)
            )
        }
        4 => line += &format!(" errno=EIO count={}", 1 + below(random, 4)),
        5 => line += &format!(" errno=ETIMEDOUT count={}", 1 + below(random, 4)),
        _ => line += &format!(" errno={}", random.of(&ERRNOS)),
    }
    if once_in(random, 3) {
        line += &format!(" skip={}", below(random, 4));
    }
    if once_in(random, 2) {
        let nonsense = random.next() & 0xffff_ffff;
        line += &format!(
            " entry_num={}",
            random.of(&[0, 1, 2, 5, 62, 63, 64, nonsense])
        );
    }
    if once_in(random, 2) {
        line += &format!(" issued={}", random.of(&[0, 1, 2, 5, 62, 63]));
    }
    line
}

/// Makes the host report random events, valid or not. Returns how many fit into
/// the queue.
#[track_caller]
pub fn report_events(bench: &Bench, random: &mut Random) -> u64 {
    let Some(id) = bench.journal().id("veventq") else {
        return 0;
    };
    let path = bench.file(&format!("veventq-iommufd0-{id}"));
    let socket = UnixDatagram::unbound().expect("a socket");
    // the queue may be full: QEMU does not read it while EVENTQEN is clear
    socket.set_nonblocking(true).expect("a socket");
    let mut sent = 0;
    for _ in 0..1 + below(random, 6) {
        let any = random.next() & 0xff;
        let kind = random.of(&[0x02, 0x04, 0x0a, 0x10, 0x11, 0x12, 0x13, 0x20, any]);
        let mut words = [
            kind | ((8 + below(random, 4)) << 40),
            random.next(),
            random.next(),
            0,
        ];
        if once_in(random, 4) {
            words[0] = random.next();
        }
        let lost = u32::from(once_in(random, 5));
        let mut bytes = [lost.to_ne_bytes(), (random.next() as u32).to_ne_bytes()].concat();
        if lost == 0 {
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        if once_in(random, 6) {
            bytes.truncate(below(random, 41) as usize);
        }
        // and the empty read that ends the kernel's events
        let all = [&bytes[..], &[]];
        sent += u64::from(
            all.iter()
                .all(|datagram| socket.send_to(datagram, &path).is_ok()),
        );
    }
    sent
}
