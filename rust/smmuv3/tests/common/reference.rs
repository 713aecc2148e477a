// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A consumer that is obviously right: it fetches one command, executes it,
//! and only then continues.

use smmuv3::{
    command::{decode, Cfgi, Command, CompletionSignal, Invalidation},
    gerror::{CMDQ_ERR, MSI_CMDQ_ABT_ERR, MSI_GERROR_ABT_ERR},
    stream_table, Backend, CommandError, Features, FlushPolicy, GuestMemory, HostError, Interrupts,
    Registers,
};

use super::{
    host::{EAGAIN, EINTR, EIO, ENOENT, ENOMEM, ETIMEDOUT},
    log::{Event, Log},
};

pub struct OneByOne {
    policy: FlushPolicy,
    atc_failed: bool,
}

impl OneByOne {
    pub const fn new(policy: FlushPolicy) -> Self {
        Self {
            policy,
            atc_failed: false,
        }
    }

    pub fn consume<M: GuestMemory, H: Backend, S: Interrupts>(
        &mut self,
        registers: &mut Registers,
        features: &Features,
        memory: &mut M,
        host: &mut H,
        signals: &mut S,
        log: &Log,
    ) {
        let ring = registers.cmdq_layout(features);
        while registers.cmdq_ready(features) {
            let rd = registers.cmdq_cons & ring.pointer_mask();
            let done = self.one(registers, features, memory, host, ring.entry_address(rd));
            match done {
                Ok(done) => {
                    // The code of an error that is over may stay (§6.3.28).
                    let err = registers.cmdq_cons >> 24 << 24;
                    registers.cmdq_cons = err | ring.advance(rd, 1);
                    if let Some(signal) = done {
                        log.push(Event::SyncCompleted(registers.cmdq_cons & 0xf_ffff));
                        self.complete(signal, registers, memory, signals);
                    }
                }
                Err(error) => {
                    registers.cmdq_cons = rd | (error.code() << 24);
                    activate(CMDQ_ERR, registers, memory, signals);
                }
            }
        }
    }

    fn one<M: GuestMemory, H: Backend>(
        &mut self,
        registers: &Registers,
        features: &Features,
        memory: &mut M,
        host: &mut H,
        address: u64,
    ) -> Result<Option<CompletionSignal>, CommandError> {
        let mut bytes = [0; 16];
        if memory.read(address, &mut bytes).is_err() {
            return Err(CommandError::Abort);
        }
        let both = u128::from_le_bytes(bytes);
        let fetched = [both as u64, (both >> 64) as u64];
        match decode(fetched, features).map_err(|_| CommandError::Illegal)? {
            Command::PrefetchConfig | Command::PrefetchAddr | Command::NoEffect => {}
            Command::CfgiSte { sid, .. } => {
                self.install((registers, features, memory), host, sid, sid)?
            }
            Command::CfgiSteRange { first, last } => {
                self.install((registers, features, memory), host, first, last)?
            }
            Command::Invalidate(command) => {
                let ignored = command.is_atc_inv() && !registers.smmu_enabled();
                let absent = command.target().is_some_and(|sid| !host.has_vdevice(sid));
                if !ignored && !absent {
                    self.execute(host, &command)?;
                }
            }
            Command::Sync { signal } => {
                if self.atc_failed {
                    self.atc_failed = false;
                    return Err(CommandError::AtcInvSync);
                }
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }

    fn install<M: GuestMemory, H: Backend>(
        &mut self,
        (registers, features, memory): (&Registers, &Features, &mut M),
        host: &mut H,
        first: u32,
        last: u32,
    ) -> Result<(), CommandError> {
        let mut from = first;
        while from <= last {
            let Some(sid) = host.next_stream(from, last) else {
                break;
            };
            let config = stream_table::evaluate(&registers.stream_table(), features, memory, sid);
            if host.set_stream(sid, &config) {
                match self.execute(host, &Invalidation::Cfgi(Cfgi::cd_all(sid))) {
                    Err(CommandError::Illegal) => host.quarantine(sid),
                    other => other?,
                }
            }
            from = sid + 1;
        }
        Ok(())
    }

    fn execute<H: Backend>(
        &mut self,
        host: &mut H,
        command: &Invalidation,
    ) -> Result<(), CommandError> {
        let twice = self.policy.repeat_tlbi_cfgi && !command.is_atc_inv();
        for _ in 0..if twice { 2 } else { 1 } {
            self.submit(host, command)?;
        }
        Ok(())
    }

    fn submit<H: Backend>(
        &mut self,
        host: &mut H,
        command: &Invalidation,
    ) -> Result<(), CommandError> {
        let (mut interrupts, mut shortages, mut timeouts, mut defects) = (0, 0, 0, 0);
        loop {
            let Err(HostError { errno, .. }) = host.invalidate(&[*command]) else {
                return Ok(());
            };
            match errno {
                EIO if command.target().is_some_and(|sid| !host.has_vdevice(sid)) => return Ok(()),
                EIO => return Err(CommandError::Illegal),
                ENOENT if host.is_gone() => return Ok(()),
                EINTR | EAGAIN if interrupts < 16 => interrupts += 1,
                ENOMEM if shortages < self.policy.memory_retries => shortages += 1,
                ETIMEDOUT if timeouts < self.policy.timeout_retries => timeouts += 1,
                ETIMEDOUT if command.is_atc_inv() => {
                    self.atc_failed = true;
                    command
                        .target()
                        .into_iter()
                        .for_each(|sid| host.quarantine(sid));
                    return Ok(());
                }
                EINTR | EAGAIN | ENOMEM | ETIMEDOUT => return Err(CommandError::Abort),
                _ if defects < 1 => defects += 1,
                _ => {
                    host.fail_closed();
                    return Err(CommandError::Abort);
                }
            }
        }
    }

    fn complete<M: GuestMemory, S: Interrupts>(
        &self,
        signal: CompletionSignal,
        registers: &mut Registers,
        memory: &mut M,
        signals: &mut S,
    ) {
        match signal {
            CompletionSignal::None => {}
            CompletionSignal::Irq => signals.cmd_sync(),
            CompletionSignal::Sev => signals.sev(),
            CompletionSignal::Msi { address, data } => {
                if memory.write_u32(address, data).is_err() {
                    activate(MSI_CMDQ_ABT_ERR, registers, memory, signals);
                }
            }
        }
    }
}

/// An error, and the interrupts of one that is new (7.5.1).
fn activate<M: GuestMemory, S: Interrupts>(
    error: u32,
    registers: &mut Registers,
    memory: &mut M,
    signals: &mut S,
) {
    if registers.activate_errors(error) == 0 || !registers.gerror_irq_enabled() {
        return;
    }
    let address = registers.gerror_irq_cfg0;
    if address != 0
        && memory
            .write_u32(address, registers.gerror_irq_cfg1)
            .is_err()
    {
        registers.activate_errors(MSI_GERROR_ABT_ERR);
    }
    signals.gerror();
}
