// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The next call of the host on the way from the queues that it has to those that the
//! registers ask for.
//!
//! The host has an order: queue *n* can only be allocated while it has queue *n* - 1, and
//! only be released while it does not have queue *n* + 1.

use super::{Assignment, QUEUES};

/// The queue that the host has for an LVCMDQ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// None.
    #[default]
    None,
    /// This one, which executes commands.
    Hardware(Assignment),
    /// One that it did not release. It is disabled, and its memory may be used for
    /// something else by now, so no guest may reach it.
    Stuck {
        /// The release was tried in this pass: it is tried again in the next one.
        is_tried: bool,
    },
}

/// An LVCMDQ: the request of the registers, and the host's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The queue that the registers ask for; `None` if the LVCMDQ is off.
    pub wanted: Option<Assignment>,
    /// The queue that the host has.
    pub backing: Backing,
    /// The queue that the host has refused. It is not asked for it again.
    pub refused: Option<Assignment>,
    /// An error is active. The queue stays in software until the guest acknowledges the
    /// error, because a queue that the host allocates has none.
    pub has_error: bool,
    /// The host must have no queue, whatever the registers ask for.
    pub is_barred: bool,
}

/// A call of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Disable this LVCMDQ's queue, save its registers, and release it.
    Release(usize),
    /// Allocate this queue for the LVCMDQ.
    Allocate(usize, Assignment),
}

/// Returns the next call of the host, or `None` if it has the queues that it should.
///
/// Each result of a step, success or failure, changes a slot such that the step is not
/// returned again: a pass has at most [`QUEUES`] releases and as many allocations.
pub fn next_step(slots: &[Slot; QUEUES]) -> Option<Step> {
    let targets = targets(slots);
    let pairs = slots.iter().zip(&targets).enumerate();
    let first_wrong = pairs
        .clone()
        .find(|(_, (slot, target))| match slot.backing {
            Backing::None => false,
            Backing::Hardware(queue) => **target != Some(queue),
            Backing::Stuck { is_tried } => !is_tried,
        });
    if let Some((first, _)) = first_wrong {
        let last = slots
            .iter()
            .enumerate()
            .skip(first)
            .filter(|(_, slot)| is_releasable(slot.backing))
            .last();
        return last.map(|(lvcmdq, _)| Step::Release(lvcmdq));
    }
    pairs
        .filter(|(_, (slot, _))| slot.backing == Backing::None)
        .find_map(|(lvcmdq, (_, target))| Some(Step::Allocate(lvcmdq, (*target)?)))
}

/// Returns the queues that the host should have: those that are wanted, from the lowest
/// on, up to the first that cannot be in hardware.
fn targets(slots: &[Slot; QUEUES]) -> [Option<Assignment>; QUEUES] {
    let mut targets = [None; QUEUES];
    for (target, slot) in targets.iter_mut().zip(slots) {
        let has_it = |queue: &Assignment| slot.backing == Backing::Hardware(*queue);
        *target = slot.wanted.filter(|queue| {
            let may_have_it = slot.refused != Some(*queue)
                && !slot.has_error
                && slot.backing != Backing::Stuck { is_tried: true };
            !slot.is_barred && (has_it(queue) || may_have_it)
        });
        if target.is_none() {
            break;
        }
    }
    targets
}

const fn is_releasable(backing: Backing) -> bool {
    match backing {
        Backing::None => false,
        Backing::Hardware(_) => true,
        Backing::Stuck { is_tried } => !is_tried,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn queue(vcmdq: usize, address: u64) -> Assignment {
        Assignment {
            vcmdq,
            address,
            log2size: 8,
        }
    }

    const A: Assignment = queue(0, 0x1000);
    const B: Assignment = queue(1, 0x2000);
    const C: Assignment = queue(0, 0x3000);
    const UNTRIED: Backing = Backing::Stuck { is_tried: false };
    const TRIED: Backing = Backing::Stuck { is_tried: true };

    const OFF: Slot = Slot {
        wanted: None,
        backing: Backing::None,
        refused: None,
        has_error: false,
        is_barred: false,
    };

    const fn wants(queue: Assignment) -> Slot {
        Slot {
            wanted: Some(queue),
            ..OFF
        }
    }

    const fn runs(queue: Assignment) -> Slot {
        Slot {
            backing: Backing::Hardware(queue),
            ..wants(queue)
        }
    }

    const fn refused(queue: Assignment) -> Slot {
        Slot {
            refused: Some(queue),
            ..wants(queue)
        }
    }

    const fn in_error(slot: Slot) -> Slot {
        Slot {
            has_error: true,
            ..slot
        }
    }

    const fn barred(slot: Slot) -> Slot {
        Slot {
            is_barred: true,
            ..slot
        }
    }

    const fn backed_by(backing: Backing, slot: Slot) -> Slot {
        Slot { backing, ..slot }
    }

    /// Every transition: what the slots are, and the call that follows.
    #[test]
    fn cmdqv_plan_names_next_call_of_each_transition() {
        use Step::{Allocate, Release};
        let old = Backing::Hardware(A);
        let cases: &[([Slot; 2], Option<Step>)] = &[
            // nothing to do
            ([OFF, OFF], None),
            ([runs(A), OFF], None),
            ([runs(A), runs(B)], None),
            // allocation ascends
            ([wants(A), OFF], Some(Allocate(0, A))),
            ([wants(A), wants(B)], Some(Allocate(0, A))),
            ([runs(A), wants(B)], Some(Allocate(1, B))),
            // a queue without the one below it stays in software
            ([OFF, wants(B)], None),
            ([refused(A), wants(B)], None),
            // a refused queue is not asked for again, but another one is
            ([refused(A), OFF], None),
            ([runs(A), refused(B)], None),
            (
                [
                    Slot {
                        wanted: Some(C),
                        ..refused(A)
                    },
                    OFF,
                ],
                Some(Allocate(0, C)),
            ),
            // release descends
            ([backed_by(old, OFF), runs(B)], Some(Release(1))),
            ([backed_by(old, OFF), wants(B)], Some(Release(0))),
            (
                [runs(A), backed_by(Backing::Hardware(B), OFF)],
                Some(Release(1)),
            ),
            // another base: everything from there on is released, then allocated
            ([backed_by(old, wants(C)), runs(B)], Some(Release(1))),
            ([backed_by(old, wants(C)), wants(B)], Some(Release(0))),
            ([wants(C), wants(B)], Some(Allocate(0, C))),
            // the same memory for another VCMDQ is another queue
            (
                [backed_by(old, wants(queue(1, 0x1000))), OFF],
                Some(Release(0)),
            ),
            // an error keeps a queue where it is
            ([in_error(runs(A)), OFF], None),
            ([in_error(wants(A)), OFF], None),
            ([in_error(wants(A)), wants(B)], None),
            ([in_error(runs(A)), wants(B)], Some(Allocate(1, B))),
            // a host that must have no queue releases those that it has
            ([barred(runs(A)), barred(runs(B))], Some(Release(1))),
            ([barred(runs(A)), barred(wants(B))], Some(Release(0))),
            ([barred(wants(A)), barred(wants(B))], None),
            // a release that failed is tried once in each pass
            ([backed_by(UNTRIED, OFF), OFF], Some(Release(0))),
            ([backed_by(TRIED, OFF), OFF], None),
            ([backed_by(TRIED, wants(A)), OFF], None),
            ([backed_by(TRIED, wants(A)), wants(B)], None),
            ([backed_by(TRIED, wants(A)), runs(B)], Some(Release(1))),
            ([runs(A), backed_by(TRIED, wants(B))], None),
            ([runs(A), backed_by(UNTRIED, wants(B))], Some(Release(1))),
            (
                [backed_by(old, OFF), backed_by(TRIED, OFF)],
                Some(Release(0)),
            ),
        ];
        for (slots, step) in cases {
            assert_eq!(next_step(slots), *step, "{slots:#?}");
        }
    }
}
