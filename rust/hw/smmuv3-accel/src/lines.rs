// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The interrupt lines, and what of the Command queue can be watched.

use qemu_ext::{log, object::ObjectExt};
use smmuv3::{
    cmdq::Signals, command::Command, features::Features, gerror::CommandError, registers::Registers,
};

use crate::{
    device::{Interrupt, Smmuv3},
    trace_names,
};

::trace::include_trace!("hw_arm");

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
        trace_names::command(words, command, self.features.s2p());
    }

    fn tolerated(&mut self, opcode: u8) {
        if !self.device.tolerated.borrow_mut().permits() {
            return;
        }
        log::guest_error(format_args!(
            "{}: {} is ILLEGAL because IDR0.Hyp is 0; everything is invalidated",
            self.device.path_component().unwrap_or_default(),
            trace_names::name(opcode).to_string_lossy()
        ));
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
