// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Programs of commands on failing hosts. If the failures have a reason, batches equal
//! single commands; if not, no invalidation is lost.

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::{
    common::{
        batches::{Failing, Op, Reasonable, Unreasonable, NAMED_STREAMS, STREAMS},
        host::{EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, ENOENT, ENOMEM, ETIMEDOUT},
    },
    pick::{below, eio, one_of, policy, several},
};

const ERRNOS: [i32; 9] = [
    EIO, ETIMEDOUT, ENOMEM, EINTR, EAGAIN, EFAULT, EINVAL, EBADF, ENOENT,
];

/// A program and its host.
#[derive(Clone, Debug)]
pub struct Case(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Reasonable(Reasonable),
    Unreasonable(Unreasonable),
}

impl Case {
    /// Panics if a guest could observe a difference, or lost something.
    pub fn check(&self) {
        match &self.0 {
            Kind::Reasonable(case) => case.check(),
            Kind::Unreasonable(case) => case.check(),
        }
    }
}

impl Arbitrary<'_> for Case {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self(if bool::arbitrary(u)? {
            Kind::Reasonable(reasonable(u)?)
        } else {
            Kind::Unreasonable(unreasonable(u)?)
        }))
    }
}

fn reasonable(u: &mut Unstructured<'_>) -> Result<Reasonable> {
    let [sets, flags] = <[u8; 2]>::arbitrary(u)?;
    let chosen = |bits: u8| {
        (0..)
            .zip(STREAMS)
            .filter(move |(n, _)| (bits >> n) & 1 != 0)
    };
    Ok(Reasonable {
        failing: Failing {
            illegal: 7 + u32::from(below(u, 53)?),
            // After the second silent device the others are not asked.
            silent: chosen(sets).map(|(_, sid)| sid).take(1).collect(),
            vanished: chosen(sets >> 3).map(|(_, sid)| sid).take(2).collect(),
            memory: 1 + usize::from(below(u, 80)?),
            interrupted: 2 + usize::from(below(u, 8)?),
            eio: eio(sets & 0x40 != 0),
        },
        repeat_tlbi_cfgi: sets & 0x80 != 0,
        collect_across_sync: flags & 1 != 0,
        merge_ranges: flags & 2 != 0,
        defer_remainder: flags & 4 != 0,
        msi: flags & 8 != 0,
        is_slow: flags & 0x10 != 0,
        portion: 1 + usize::from(below(u, 200)?),
        log2size: below(u, 9)?.into(),
        budget: one_of(u, &[1, 2, 7, 4096])?,
        program: several(u, 160, op)?,
    })
}

fn unreasonable(u: &mut Unstructured<'_>) -> Result<Unreasonable> {
    Ok(Unreasonable {
        policy: policy(u)?,
        portion: 1 + usize::from(below(u, 200)?),
        answers: {
            let count = below(u, 40)?;
            (0..count).map(|_| answer(u)).collect::<Result<_>>()?
        },
        program: several(u, 160, op)?,
    })
}

fn answer(u: &mut Unstructured<'_>) -> Result<Option<(i32, u32)>> {
    let [what, entry_num] = <[u8; 2]>::arbitrary(u)?;
    let errno = ERRNOS.get(usize::from(what));
    Ok(errno.map(|errno| (*errno, entry_num.into())))
}

fn op(u: &mut Unstructured<'_>) -> Result<Op> {
    let byte = u8::arbitrary(u)?;
    let sid = NAMED_STREAMS[usize::from(byte >> 6)];
    Ok(match byte & 0x1f {
        0..=13 => Op::Va,
        14..=15 => Op::Asid,
        16..=19 => Op::Atc(sid),
        20..=22 => Op::Cd(sid),
        23 => Op::Ste(sid),
        24 => Op::SteRange,
        25 => Op::Prefetch,
        26 => Op::Sync,
        27..=28 => Op::SyncIrq,
        29 => Op::Reserved,
        30 => Op::SyncMsi,
        _ => Op::BadSync,
    })
}
