// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The right to consume the Command queue, among threads.
//!
//! Each function is one step under the lock that protects the registers, and no lock is held
//! while the consumer runs. A thread that finds the token gone has nothing to wait for: its
//! doorbell is in the registers, and the token's holder looks at these when it gives the token
//! back. `model` has all interleavings of these steps.

use super::Progress;
use crate::{features::Features, registers::CmdqRun, Registers};

/// The consumer of a Command queue, unless a thread has it.
#[derive(Debug)]
pub struct Token<T>(Option<T>);

/// The consumer of a Command queue, and the registers that it owns. No other thread has it.
#[derive(Debug)]
#[must_use = "the queue is not consumed any more before it is released"]
pub struct Claim<T> {
    /// The consumer.
    pub consumer: T,
    /// The state of the registers that it works on.
    pub run: CmdqRun,
}

/// The outcome of giving the token back.
#[derive(Debug)]
pub enum Released<T> {
    /// The token is back. The caller arranges what the progress requires.
    Done(Progress),
    /// It is not: a doorbell came while the consumer ran, and found no token.
    Again(Claim<T>),
}

impl<T> Default for Token<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Token<T> {
    /// Puts the consumer in place.
    pub fn set(&mut self, consumer: T) {
        self.0 = Some(consumer);
    }

    /// Takes the consumer of a queue whose registers are not [`Registers`].
    pub fn take(&mut self) -> Option<T> {
        self.0.take()
    }

    /// Returns the consumer, unless a thread has it.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()
    }

    /// Takes the consumer for a run. `None`: a thread has it, and sees what the caller has
    /// written to the registers before.
    #[inline]
    pub fn claim(&mut self, registers: &mut Registers, features: &Features) -> Option<Claim<T>> {
        let consumer = self.0.take()?;
        Some(Self::begin(consumer, registers, features))
    }

    #[inline]
    fn begin(consumer: T, registers: &mut Registers, features: &Features) -> Claim<T> {
        let run = registers.begin_cmdq(features);
        registers.is_cmdq_running = run.is_ready();
        Claim { consumer, run }
    }

    /// Ends a run. If commands came that nothing else will have consumed, the caller has the
    /// token again, unless it must not (`may_repeat`): then there is [`Progress::More`].
    #[inline]
    pub fn release(
        &mut self,
        registers: &mut Registers,
        features: &Features,
        claim: Claim<T>,
        progress: Progress,
        may_repeat: bool,
    ) -> Released<T> {
        let Claim { consumer, run } = claim;
        let prod = run.prod();
        registers.finish_cmdq(run);
        let is_missed = registers.cmdq_ready(features)
            && match progress {
                // whatever the queue has came later
                Progress::Idle => true,
                // the caller has the rest consumed
                Progress::More => false,
                Progress::Deferred => registers.cmdq_prod != prod,
            };
        if is_missed && may_repeat {
            return Released::Again(Self::begin(consumer, registers, features));
        }
        self.0 = Some(consumer);
        Released::Done(if is_missed { Progress::More } else { progress })
    }
}

#[cfg(test)]
mod model;
