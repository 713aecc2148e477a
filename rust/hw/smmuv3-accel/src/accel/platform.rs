// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The consumer's surroundings: guest memory, the host's iommufd, and the
//! interrupt lines, as the traits of [`smmuv3::cmdq`].

use smmuv3::{
    cmdq::{self, BusAbort, GuestMemory, Signals},
    command::Command,
    features::Features,
    gerror::CommandError,
    invalidation::HostError,
    registers::Registers,
};

use super::{stream::Stream, trace_names, viommu::Viommu, Accel};
use crate::{
    device::{Interrupt, Smmuv3},
    ffi,
};

::trace::include_trace!("hw_arm");

/// Guest physical memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestRam;

impl GuestMemory for GuestRam {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        ffi::dma_read(address, buffer)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        ffi::dma_write(address, data)
    }
}

/// The host, for the length of one run of the consumer.
pub struct Host<'a> {
    device: &'a Smmuv3,
}

impl<'a> Host<'a> {
    /// The host side of `device`.
    pub const fn new(device: &'a Smmuv3) -> Self {
        Self { device }
    }

    /// Calls `function` with the streams, if there are any.
    fn with<R>(&self, function: impl FnOnce(&mut [Stream], &Viommu) -> R) -> Option<R> {
        let mut accel_cell = self.device.accel_state.borrow_mut();
        let (streams, viommu) = accel_cell.as_mut().and_then(Accel::parts)?;
        Some(function(streams, viommu))
    }
}

impl cmdq::Host for Host<'_> {
    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Result<(), HostError> {
        // no device, nothing cached
        let result = self
            .with(|_, viommu| viommu.object.invalidate(commands))
            .unwrap_or(Ok(()));
        let (errno, entry_num) = match &result {
            Ok(()) => (0, commands.len() as u32),
            Err(error) => (error.errno, error.entry_num),
        };
        trace::trace_smmuv3_accel_invalidate_batch(commands.len() as u32, errno, entry_num);
        result
    }

    fn next_stream(&mut self, first: u32, last: u32) -> Option<u32> {
        self.with(|streams, _| {
            streams
                .iter()
                .map(Stream::stream_id)
                .filter(|sid| (first..=last).contains(sid))
                .min()
        })
        .flatten()
    }

    fn has_vdevice(&mut self, sid: u32) -> bool {
        // nothing is cached for a stream on abort, and a device whose ATS does not
        // answer would make every flush wait for it
        self.with(|streams, _| {
            streams
                .iter()
                .any(|stream| stream.has_vdevice(sid) && !stream.is_quarantined())
        })
        .unwrap_or(false)
    }

    fn install_ste(&mut self, sid: u32) -> bool {
        self.device.release_streams(sid);
        self.device.attach_streams(|stream_id| stream_id == sid)
    }

    fn quarantine(&mut self, sid: u32) {
        self.with(|streams, viommu| {
            for stream in streams.iter_mut().filter(|stream| stream.has_vdevice(sid)) {
                stream.quarantine(viommu);
            }
        });
    }

    fn fail_closed(&mut self) {
        self.with(|streams, viommu| {
            for stream in streams {
                stream.quarantine(viommu);
            }
        });
    }

    fn gone(&mut self) -> bool {
        self.with(|_, _| ()).is_none()
    }
}

/// The interrupt lines, and the trace.
pub struct Lines<'a> {
    device: &'a Smmuv3,
    features: Features,
}

impl<'a> Lines<'a> {
    /// The lines of `device`.
    pub fn new(device: &'a Smmuv3) -> Self {
        Self {
            device,
            features: device.features(),
        }
    }
}

/// Index and wrap flag of a pointer of the Command queue, for the trace.
fn split(registers: &Registers, features: &Features, pointer: u32) -> (u32, u8) {
    let ring = registers.cmdq_ring(features);
    let index = ring.index(pointer);
    (index, u8::from(pointer & ring.pointer_mask() != index))
}

impl Signals for Lines<'_> {
    fn cmd_sync(&mut self) {
        self.device.pulse(Interrupt::CmdSync);
    }

    fn gerror(&mut self) {
        self.device.pulse(Interrupt::Gerror);
    }

    fn activated(&mut self, toggled: u32, gerror: u32) {
        trace::trace_smmuv3_write_gerror(toggled, gerror);
    }

    fn consume_begin(&mut self, registers: &Registers) {
        let (prod, prod_wrap) = split(registers, &self.features, registers.cmdq.prod);
        let (cons, cons_wrap) = split(registers, &self.features, registers.cmdq.cons);
        trace::trace_smmuv3_cmdq_consume(prod, cons, prod_wrap, cons_wrap);
    }

    fn opcode(&mut self, words: [u64; 2], command: Option<&Command>) {
        trace::trace_smmuv3_cmdq_opcode(trace_names::name(words[0] as u8));
        trace_names::command(words, command);
    }

    fn error(&mut self, opcode: u8, code: CommandError) {
        trace::trace_smmuv3_cmdq_consume_error(trace_names::name(opcode), code.code() as u8);
    }

    fn consume_end(&mut self, registers: &Registers) {
        let (prod, prod_wrap) = split(registers, &self.features, registers.cmdq.prod);
        let (cons, cons_wrap) = split(registers, &self.features, registers.cmdq.cons);
        trace::trace_smmuv3_cmdq_consume_out(prod, cons, prod_wrap, cons_wrap);
    }
}
