// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Command queue through real registers and guest memory: what is
//! consumed, how it stops, how it goes on. No device is assigned, so nothing
//! reaches a host.

use serde_json::json;
use smmuv3_qtest::{
    command,
    command::{Command, RESERVED, SYNC, SYNC_IRQ, TLBI_NSNH_ALL},
    machine::RAM,
    qemu, smmu,
    smmu::{cerror, reg, CMDQEN, CMDQ_ERR, EVENTQEN, GERROR_IRQEN, SMMUEN},
    until, Builder, Machine, Random, Smmu,
};

const PROFILE: &str = "accel=on,ats=off,ril=on,ssidsize=0,oas=44";
/// Guest physical address of nothing.
const NOWHERE: u64 = 0x6000_0000;

fn start() -> Machine {
    Builder::virt(qemu()).smmu(PROFILE).start()
}

/// An SMMU with a queue of 2^`log2size` entries at the start of RAM, GERROR's
/// interrupt enabled, and its interrupts observed.
#[track_caller]
fn ready(machine: &Machine, log2size: u32) -> Smmu<'_> {
    let smmu = Smmu::find(machine);
    smmu.intercept_irqs();
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    smmu.setup_queue(RAM, log2size);
    smmu
}

/// The queue has stopped at the command that `cons` names.
#[track_caller]
fn assert_stopped(smmu: &Smmu<'_>, cons: u32, code: u32) {
    assert!(smmu.error(), "CMDQ_ERR is not active");
    assert_eq!((smmu.cons(), smmu.cons_err()), (cons, code), "CMDQ_CONS");
}

#[track_caller]
fn assert_idle(smmu: &Smmu<'_>, cons: u32) {
    assert!(!smmu.error(), "CMDQ_ERR is active");
    assert_eq!(smmu.cons(), cons, "CMDQ_CONS.RD");
}

/// Interrupts since the last call: of `CMD_SYNC` and of GERROR.
#[track_caller]
fn interrupts(smmu: &Smmu<'_>) -> (u32, u32) {
    let [eventq, priq, sync, gerror] = smmu.pulses();
    assert_eq!((eventq, priq), (0, 0));
    (sync, gerror)
}

/// Two commands that are fine, one that is not, two more.
const BAD_THIRD: [Command; 5] = [
    command::tlbi_nh_va(5, 0x1000),
    command::tlbi_nh_va(5, 0x2000),
    RESERVED,
    command::tlbi_nh_va(5, 0x4000),
    SYNC_IRQ,
];

// --- consumption ---

#[test]
fn commands_are_consumed_whether_the_smmu_is_enabled_or_not() {
    let machine = start();
    let smmu = ready(&machine, 4);
    for _ in 0..2 {
        smmu.submit(&[
            command::cfgi_ste(0x8),
            command::CFGI_ALL,
            command::cfgi_cd_all(0x8),
            command::tlbi_nh_asid(3),
            SYNC_IRQ,
        ]);
        assert!(!smmu.error());
        assert_eq!(interrupts(&smmu), (1, 0));
        smmu.enable(SMMUEN);
    }
}

#[test]
fn every_opcode_is_consumed_or_illegal_as_the_specification_says() {
    let legal = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x46,
    ];
    for ats in [false, true] {
        let options = if ats {
            PROFILE.replace("ats=off", "ats=on")
        } else {
            PROFILE.to_owned()
        };
        let machine = Builder::virt(qemu()).smmu(&options).start();
        let smmu = ready(&machine, 4);
        for opcode in 0..=u8::MAX {
            smmu.setup_queue(RAM, 4);
            smmu.push(&[TLBI_NSNH_ALL, command::of(opcode), SYNC]);
            smmu.ring();
            if legal.contains(&opcode) || (ats && opcode == 0x40) {
                assert!(!smmu.error(), "opcode {opcode:#x}, ATS {ats}");
                assert_eq!(smmu.cons(), 3, "opcode {opcode:#x}, ATS {ats}");
            } else {
                assert!(smmu.error(), "opcode {opcode:#x}, ATS {ats}");
                assert_eq!(
                    (smmu.cons(), smmu.cons_err()),
                    (1, cerror::ILL),
                    "opcode {opcode:#x}, ATS {ats}"
                );
                smmu.disable(CMDQEN);
                smmu.acknowledge();
            }
        }
    }
}

#[test]
fn parameters_that_must_be_illegal_are() {
    let machine = start();
    let smmu = ready(&machine, 4);
    let ssec = 1 << 10;
    let tg_4k = 1 << 10;
    let tg_16k = 2 << 10;
    let ttl_1 = 1 << 8;
    for (what, command) in [
        ("CMD_SYNC with CS 3", [0x3046, 0]),
        ("PREFETCH_CONFIG with SSec", [0x01 | ssec, 0]),
        ("PREFETCH_ADDR with SSec", [0x02 | ssec, 0]),
        ("CFGI_STE with SSec", [0x03 | ssec, 1]),
        ("CFGI_ALL with SSec", [0x04 | ssec, 31]),
        ("CFGI_CD with SSec", [0x05 | ssec, 1]),
        ("CFGI_CD_ALL with SSec", [0x06 | ssec, 0]),
        ("NH_VA with TG only", [0x12, tg_4k]),
        ("NH_VAA with TG only", [0x13, tg_4k]),
        ("NH_VA of 16K with TTL 1 only", [0x12, tg_16k | ttl_1]),
    ] {
        smmu.setup_queue(RAM, 4);
        smmu.push(&[command]);
        smmu.ring();
        assert!(smmu.error(), "{what}");
        assert_eq!((smmu.cons(), smmu.cons_err()), (0, cerror::ILL), "{what}");
        smmu.disable(CMDQEN);
        smmu.acknowledge();
    }
}

#[test]
fn parameters_out_of_range_and_reserved_bits_are_not_illegal() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.submit(&[
        command::cfgi_ste(u32::MAX),
        command::cfgi_ste_range(0xffff_fff0, 30),
        command::cfgi_cd(0x8, 0xf_ffff),
        command::cfgi_cd_all(u32::MAX),
        // VMID on an SMMU without stage 2, addresses that are not canonical
        [0x11 | (0x77 << 32) | (5 << 48), 0],
        [0x12 | (5 << 48), 0xab00_0000_0000_1001],
        // a range: NUM 3, SCALE 1, TG 4K, TTL 3
        [0x10_3012 | (5 << 48), 0x1_0701],
        // Reserved bits of CMD_TLBI_NSNH_ALL and CMD_SYNC
        [0xffff_ffff_ffff_ff30, u64::MAX],
        [0xffff_ffff_ffff_cf46, u64::MAX],
    ]);
    assert_idle(&smmu, 9);
}

#[test]
fn every_queue_size_works_across_both_wraps() {
    let machine = start();
    let smmu = ready(&machine, 0);
    for log2size in 0..=19 {
        let entries = 1_u32 << log2size;
        let burst = entries.min(40);
        for start in [entries - 1, 2 * entries - 1, 0] {
            smmu.setup_queue_at(RAM, log2size, start);
            let mut commands = vec![command::tlbi_nh_asid(7); burst as usize];
            commands[burst as usize - 1] = SYNC_IRQ;
            smmu.submit(&commands);
            assert_idle(&smmu, (start + burst) % (2 * entries));
            assert_eq!(
                interrupts(&smmu),
                (1, 0),
                "LOG2SIZE {log2size} from {start:#x}"
            );
        }
    }
}

#[test]
fn a_full_queue_is_consumed_in_every_position() {
    let machine = start();
    let smmu = ready(&machine, 3);
    for start in 0..16 {
        smmu.setup_queue_at(RAM, 3, start);
        smmu.submit(&[SYNC_IRQ; 8]);
        assert_idle(&smmu, start ^ 8);
        assert_eq!(interrupts(&smmu), (8, 0));
    }
}

/// V05 and V14
#[test]
fn the_base_is_aligned_down_to_the_size_of_the_queue() {
    let machine = start();
    let smmu = ready(&machine, 4);
    for (base, aligned) in [
        (RAM + 0x20, RAM + 0x20),
        (RAM + 0x21, RAM + 0x20),
        (RAM + 0x1228, RAM + 0x1000),
        (RAM + 0x8_00e4, RAM + 0x8_0000),
    ] {
        smmu.disable(CMDQEN);
        machine.fill_memory(RAM, 0x2000, 0);
        machine.write_memory(aligned, &command::to_bytes(&[SYNC_IRQ]));
        smmu.write64(reg::CMDQ_BASE, base);
        smmu.write(reg::CMDQ_CONS, 0);
        smmu.write(reg::CMDQ_PROD, 1);
        smmu.enable(CMDQEN);
        assert_idle(&smmu, 1);
        assert_eq!(interrupts(&smmu), (1, 0), "CMDQ_BASE {base:#x}");
    }
}

/// V11, with IDR1.CMDQS 19
#[test]
fn a_size_above_the_largest_is_the_largest() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.setup_queue_at(RAM, 19, 0x7_fffe);
    smmu.disable(CMDQEN);
    smmu.write64(reg::CMDQ_BASE, RAM | 31);
    smmu.enable(CMDQEN);
    smmu.submit(&[TLBI_NSNH_ALL, TLBI_NSNH_ALL, SYNC_IRQ]);
    assert_idle(&smmu, 0x8_0001);
    assert_eq!(interrupts(&smmu), (1, 0));
    assert_eq!(smmu.read64(reg::CMDQ_BASE), RAM | 31);
}

/// V15
#[test]
fn a_base_above_the_output_size_is_truncated() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.disable(CMDQEN);
    machine.write_memory(RAM, &command::to_bytes(&[SYNC_IRQ]));
    smmu.write64(reg::CMDQ_BASE, (1 << 52) | RAM | 4);
    smmu.write(reg::CMDQ_PROD, 1);
    smmu.enable(CMDQEN);
    assert_idle(&smmu, 1);
    assert_eq!(interrupts(&smmu), (1, 0));
}

/// V12
#[test]
fn bits_of_prod_above_the_wrap_flag_mean_nothing() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.push(&[TLBI_NSNH_ALL, SYNC_IRQ]);
    smmu.write(reg::CMDQ_PROD, 0xffff_ffe2);
    assert_idle(&smmu, 2);
    assert_eq!(smmu.read(reg::CMDQ_PROD) >> 20, 0);
}

/// V16: CONSTRAINED UNPREDICTABLE, and nothing is consumed.
#[test]
fn an_inconsistent_queue_is_left_alone_until_it_is_consistent() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.setup_queue_at(RAM, 4, 5);
    smmu.push(&[SYNC_IRQ; 2]);
    for prod in [3, 0, 4, 0x16, 0x1f] {
        smmu.write(reg::CMDQ_PROD, prod);
        assert_idle(&smmu, 5);
    }
    assert_eq!(interrupts(&smmu), (0, 0));
    smmu.ring();
    assert_idle(&smmu, 7);
    assert_eq!(interrupts(&smmu), (2, 0));
}

// --- CMD_SYNC ---

#[test]
fn a_sync_signals_as_it_says() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.submit(&[SYNC]);
    assert_eq!(interrupts(&smmu), (0, 0), "CS 0: no signal");
    smmu.submit(&[SYNC_IRQ]);
    assert_eq!(interrupts(&smmu), (1, 0), "CS 1: interrupt");
    smmu.submit(&[[0x2046, 0]]);
    assert_eq!(
        interrupts(&smmu),
        (0, 0),
        "CS 2: an event, of which IDR0.SEV has none"
    );
    smmu.submit(&[SYNC_IRQ, SYNC, SYNC_IRQ]);
    assert_eq!(interrupts(&smmu), (2, 0), "one for each");
    smmu.push(&[[0x3046, 0]]);
    smmu.ring();
    assert_stopped(&smmu, 6, cerror::ILL);
    assert_eq!(interrupts(&smmu), (0, 1), "CS 3: illegal");
}

#[test]
fn a_sync_writes_no_msi_without_idr0_msi() {
    let machine = start();
    let smmu = ready(&machine, 4);
    let target = RAM + 0x1_0000;
    machine.write32(target, 0x1111_1111);
    smmu.submit(&[[0x1046 | (0x2222_2222 << 32), target]]);
    assert_eq!(machine.read32(target), 0x1111_1111);
    assert_eq!(interrupts(&smmu), (1, 0));
}

// --- errors ---

#[test]
fn an_illegal_command_stops_the_queue_at_itself() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.push(&BAD_THIRD);
    smmu.ring();
    assert_stopped(&smmu, 2, cerror::ILL);
    assert_eq!(
        (smmu.read(reg::GERROR), smmu.read(reg::GERRORN)),
        (CMDQ_ERR, 0)
    );
    assert_eq!(interrupts(&smmu), (0, 1));
    smmu.ring();
    assert_stopped(&smmu, 2, cerror::ILL);
    assert_eq!(
        interrupts(&smmu),
        (0, 0),
        "an active error is not raised again"
    );
}

/// V91
#[test]
fn the_queue_goes_on_when_the_error_is_acknowledged() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.push(&BAD_THIRD);
    smmu.ring();
    smmu.write_slots(2, &[SYNC]);
    smmu.write(reg::GERRORN, CMDQ_ERR);
    assert_idle(&smmu, 5);
    assert_eq!((smmu.read(reg::GERROR), smmu.read(reg::GERRORN)), (1, 1));
    assert_eq!(interrupts(&smmu), (1, 1));
}

/// V93
#[test]
fn a_command_that_is_still_illegal_is_a_new_error() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.push(&BAD_THIRD);
    smmu.ring();
    for (gerrorn, gerror) in [(1, 0), (0, 1), (1, 0)] {
        assert_eq!(interrupts(&smmu), (0, 1));
        smmu.write(reg::GERRORN, gerrorn);
        assert_stopped(&smmu, 2, cerror::ILL);
        assert_eq!(
            (smmu.read(reg::GERROR), smmu.read(reg::GERRORN)),
            (gerror, gerrorn)
        );
    }
    smmu.write_slots(2, &[SYNC]);
    smmu.acknowledge();
    assert_idle(&smmu, 5);
    assert_eq!((smmu.read(reg::GERROR), smmu.read(reg::GERRORN)), (0, 0));
    assert_eq!(interrupts(&smmu), (1, 1));
}

/// V95
#[test]
fn commands_can_be_taken_back_while_an_error_is_active() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.push(&BAD_THIRD);
    smmu.ring();
    smmu.write(reg::CMDQ_PROD, 2);
    smmu.acknowledge();
    assert_idle(&smmu, 2);
    assert_eq!(interrupts(&smmu), (0, 1));
}

/// V97
#[test]
fn disabling_the_queue_neither_acknowledges_nor_resumes() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.push(&BAD_THIRD);
    smmu.ring();
    for _ in 0..3 {
        smmu.disable(CMDQEN);
        smmu.enable(CMDQEN);
        assert_stopped(&smmu, 2, cerror::ILL);
    }
    assert_eq!(interrupts(&smmu), (0, 1));
    smmu.write_slots(2, &[SYNC]);
    smmu.acknowledge();
    assert_idle(&smmu, 5);
}

/// V99
#[test]
fn newer_commands_are_fetched_again_after_an_error() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.push(&BAD_THIRD);
    smmu.ring();
    smmu.write_slots(2, &[SYNC_IRQ, SYNC_IRQ]);
    smmu.acknowledge();
    assert_idle(&smmu, 5);
    assert_eq!(interrupts(&smmu), (3, 1));
}

/// V103
#[test]
fn an_error_behind_the_wrap_of_a_full_queue_names_its_slot() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.setup_queue_at(RAM, 4, 0xf);
    let mut commands = [SYNC; 16];
    commands[1] = RESERVED;
    smmu.push(&commands);
    smmu.ring();
    assert_stopped(&smmu, 0x10, cerror::ILL);
}

#[test]
fn an_error_that_no_one_wants_to_hear_of_has_no_interrupt() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.write(reg::IRQ_CTRL, 0);
    smmu.push(&[RESERVED]);
    smmu.ring();
    assert_stopped(&smmu, 0, cerror::ILL);
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    assert_eq!(interrupts(&smmu), (0, 0), "enabling later delivers nothing");
    smmu.acknowledge();
    assert_eq!(interrupts(&smmu), (0, 1), "the next one is delivered");
}

/// 6.3.20: toggling GERRORN without an error makes one, as long as it lasts.
#[test]
fn an_acknowledgement_without_an_error_stops_the_queue_until_it_is_undone() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.write(reg::GERRORN, CMDQ_ERR);
    smmu.push(&[SYNC_IRQ]);
    smmu.ring();
    assert_eq!(smmu.cons(), 0);
    smmu.write(reg::GERRORN, 0);
    assert_idle(&smmu, 1);
    assert_eq!(interrupts(&smmu), (1, 0));
}

// --- memory that is not memory ---

#[test]
fn a_queue_outside_memory_is_a_fetch_abort() {
    let machine = start();
    let smmu = ready(&machine, 4);
    for log2size in [0, 4, 8, 19] {
        smmu.setup_queue(NOWHERE, log2size);
        smmu.write(reg::CMDQ_PROD, 1 << log2size);
        assert_stopped(&smmu, 0, cerror::ABT);
        assert_eq!(interrupts(&smmu), (0, 1));
        smmu.disable(CMDQEN);
        smmu.acknowledge();
    }
    // it is not final: RAM works again, without a reset
    smmu.setup_queue(RAM, 4);
    smmu.submit(&[SYNC_IRQ]);
    assert_idle(&smmu, 1);
}

#[test]
fn a_queue_that_leaves_memory_halfway_stops_exactly_there() {
    // RAM ends 1 MiB behind an address that suits a queue of 2 MiB
    let machine = Builder::virt(qemu())
        .smmu(PROFILE)
        .args(["-m", "129"])
        .start();
    let smmu = ready(&machine, 4);
    let base = RAM + (128 << 20);
    let inside = (1_u32 << 20) / 16;
    smmu.setup_queue_at(base, 17, inside - 3);
    machine.write_memory(
        smmu.slot(inside - 3),
        &command::to_bytes(&[SYNC_IRQ, TLBI_NSNH_ALL, SYNC_IRQ]),
    );
    smmu.write(reg::CMDQ_PROD, inside + 10);
    assert_stopped(&smmu, inside, cerror::ABT);
    assert_eq!(
        interrupts(&smmu),
        (2, 1),
        "the commands before the end of RAM have run"
    );
    smmu.write(reg::CMDQ_PROD, inside);
    smmu.acknowledge();
    assert_idle(&smmu, inside);
}

#[test]
fn a_queue_in_the_smmus_own_registers_does_no_harm() {
    let machine = start();
    let smmu = ready(&machine, 4);
    for log2size in [0, 1, 4, 8, 12, 13] {
        smmu.setup_queue(smmu.base(), log2size);
        smmu.write(reg::CMDQ_PROD, 1 << log2size);
        assert!(smmu.error(), "LOG2SIZE {log2size}");
        assert_eq!(machine.status(), "running");
        smmu.disable(CMDQEN);
        smmu.acknowledge();
    }
    smmu.setup_queue(RAM, 4);
    smmu.submit(&[SYNC_IRQ]);
    assert_idle(&smmu, 1);
}

/// What a page of `virt`'s address space holds: nothing legal as a command, or
/// legal by chance; QEMU survives either.
#[test]
fn a_queue_in_any_device_does_no_harm() {
    let machine = Builder::virt(qemu())
        .smmu(PROFILE)
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .device(format!("arm-smmuv3,primary-bus=pcie.2,{PROFILE}"))
        .start();
    let bases = smmu::bases(&machine);
    let smmu = Smmu::at(&machine, bases[0]);
    let devices = [
        bases[1],       // another SMMU
        0x0800_0000,    // interrupt distributor
        0x0801_0000,    // CPU interface or ITS
        0x0900_0000,    // UART
        0x0901_0000,    // real-time clock
        0x0902_0000,    // firmware configuration
        0x0903_0000,    // GPIO
        0x0a00_0000,    // virtio-mmio
        0x0c00_0000,    // platform bus
        0x1000_0000,    // PCIe memory window
        0x3eff_0000,    // PCIe port window
        0x40_1000_0000, // PCIe configuration space
        0x80_0000_0000, // high PCIe memory window
        NOWHERE,
    ];
    for base in devices {
        for log2size in [0, 6, 12] {
            smmu.setup_queue(base, log2size);
            smmu.write(reg::CMDQ_PROD, 1 << log2size);
            assert_eq!(machine.status(), "running", "a queue at {base:#x}");
            smmu.disable(CMDQEN);
            smmu.acknowledge();
        }
    }
    smmu.setup_queue(RAM, 4);
    smmu.submit(&[SYNC]);
    assert_idle(&smmu, 1);
}

#[test]
fn a_queue_in_empty_flash_is_full_of_illegal_commands() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.setup_queue(0, 4);
    smmu.write(reg::CMDQ_PROD, 3);
    assert_stopped(&smmu, 0, cerror::ILL);
}

/// Bad tables are no matter of the Command queue (7.2).
#[test]
fn a_stream_table_anywhere_is_no_command_error() {
    let machine = start();
    let smmu = ready(&machine, 4);
    for base in [
        NOWHERE,
        smmu.base(),
        0,
        0x0900_0000,
        RAM,
        (1 << 44) - (1 << 20),
    ] {
        for config in [0, 16, 0x3f, 0x1_0188, 0x1_03bf, 0x3_07ff] {
            smmu.write(reg::CR0, CMDQEN);
            smmu.write64(reg::STRTAB_BASE, base);
            smmu.write(reg::STRTAB_BASE_CFG, config);
            smmu.enable(SMMUEN | EVENTQEN);
            smmu.submit(&[
                command::cfgi_ste(0x800),
                command::cfgi_ste_range(0, 15),
                command::CFGI_ALL,
                SYNC,
            ]);
            assert!(
                !smmu.error(),
                "table at {base:#x}, configuration {config:#x}"
            );
        }
    }
    assert_eq!(machine.status(), "running");
}

// --- enabling and disabling ---

#[test]
fn enabling_the_queue_starts_what_is_in_it() {
    let machine = start();
    let smmu = ready(&machine, 4);
    smmu.disable(CMDQEN);
    smmu.push(&[TLBI_NSNH_ALL, SYNC_IRQ]);
    smmu.ring();
    assert_idle(&smmu, 0);
    assert_eq!(interrupts(&smmu), (0, 0));
    smmu.enable(CMDQEN);
    assert_idle(&smmu, 2);
    assert_eq!(interrupts(&smmu), (1, 0));
}

#[test]
fn a_disabled_queue_can_be_moved_and_goes_on() {
    let machine = start();
    let smmu = ready(&machine, 4);
    for round in 0..20_u64 {
        let log2size = (round % 6) as u32;
        smmu.setup_queue(RAM + (round << 12), log2size);
        smmu.submit(&[SYNC_IRQ]);
        assert_idle(&smmu, 1);
        assert_eq!(interrupts(&smmu), (1, 0));
    }
}

// --- work without bound ---

/// The largest queue.
const LARGEST: u32 = 19;

/// Writes a full queue of the largest size: invalidations, and a `CMD_SYNC`
/// with interrupt at the end.
fn fill_largest(smmu: &Smmu<'_>) {
    let mut commands = vec![command::tlbi_nh_va(1, 0x1000); 1 << LARGEST];
    commands[(1 << LARGEST) - 1] = SYNC_IRQ;
    smmu.push(&commands);
}

/// What is consumed before a doorbell returns, at most.
const SLICE: u32 = 4096;

/// `CMDQ_CONS.RD` right behind the writes, before QEMU does anything else.
#[track_caller]
fn cons_after(smmu: &Smmu<'_>, writes: &[(u64, u32)]) -> u32 {
    let writes: Vec<(u64, u32)> = writes
        .iter()
        .map(|(register, value)| (smmu.base() + register, *value))
        .collect();
    let cons = smmu
        .machine()
        .write32_then_read32(&writes, smmu.base() + reg::CMDQ_CONS);
    cons & 0xf_ffff
}

#[test]
fn a_doorbell_returns_after_a_slice_and_the_rest_follows() {
    let machine = start();
    let smmu = ready(&machine, LARGEST);
    for lap in 0..4 {
        fill_largest(&smmu);
        let first = cons_after(&smmu, &[(reg::CMDQ_PROD, smmu.prod())]);
        let consumed = first % (1 << LARGEST);
        assert!(0 < consumed && consumed <= SLICE, "CONS.RD = {first:#x}");
        smmu.wait_consumed();
        assert_idle(&smmu, if lap % 2 == 0 { 1 << LARGEST } else { 0 });
        assert_eq!(interrupts(&smmu), (1, 0), "lap {lap}");
    }
}

/// A machine that writes a line for each command: slow enough to be watched.
fn start_slow() -> Machine {
    Builder::virt(qemu())
        .smmu(PROFILE)
        .args(["-trace", "smmuv3_cmdq_opcode", "-D", "/dev/null"])
        .start()
}

#[test]
fn qmp_answers_while_the_largest_queue_is_consumed() {
    let machine = start_slow();
    let smmu = ready(&machine, LARGEST);
    fill_largest(&smmu);
    smmu.ring();
    let mut answers = 0;
    until("consumption", || {
        assert_eq!(machine.status(), "running");
        let done = smmu.cons() == smmu.prod();
        answers += u32::from(!done);
        done.then_some(())
    });
    assert!(answers > 0, "QMP answered only when all was consumed");
}

#[test]
fn disabling_the_queue_stops_it_between_slices() {
    let machine = start();
    let smmu = ready(&machine, LARGEST);
    fill_largest(&smmu);
    let cons = cons_after(&smmu, &[(reg::CMDQ_PROD, smmu.prod()), (reg::CR0, 0)]);
    assert!(0 < cons && cons <= SLICE, "CONS.RD = {cons:#x}");
    for _ in 0..10 {
        machine.status();
        assert_eq!(
            smmu.cons(),
            cons,
            "nothing is consumed while the queue is disabled"
        );
    }
    smmu.enable(CMDQEN);
    smmu.wait_consumed();
    assert_eq!(interrupts(&smmu), (1, 0));
}

#[test]
fn a_reset_between_slices_leaves_nothing_behind() {
    let machine = start_slow();
    let smmu = ready(&machine, LARGEST);
    fill_largest(&smmu);
    smmu.ring();
    machine.system_reset();
    // also if the reset should have come late
    interrupts(&smmu);
    for _ in 0..10 {
        assert_eq!(
            (smmu.read(reg::CMDQ_CONS), smmu.read(reg::CMDQ_PROD)),
            (0, 0)
        );
        machine.status();
    }
    assert_eq!(interrupts(&smmu), (0, 0));
    smmu.setup_queue(RAM, 4);
    smmu.submit(&[SYNC_IRQ]);
    assert_idle(&smmu, 1);
}

#[test]
fn an_error_deep_in_the_largest_queue_names_its_slot() {
    let machine = start();
    let smmu = ready(&machine, LARGEST);
    fill_largest(&smmu);
    let bad = 4096 * 70 + 17;
    smmu.write_slots(bad, &[RESERVED]);
    smmu.ring();
    until("error", || smmu.error().then_some(()));
    assert_stopped(&smmu, bad, cerror::ILL);
    assert_eq!(interrupts(&smmu), (0, 1));
    smmu.write_slots(bad, &[SYNC]);
    smmu.acknowledge();
    smmu.wait_consumed();
    assert_eq!(interrupts(&smmu), (1, 0));
}

// --- malice ---

/// Any register, any value; those that lead somewhere more often.
fn hostile_access(smmu: &Smmu<'_>, random: &mut Random) {
    let offset = match random.next() % 8 {
        0 => random.next() % smmu::SIZE,
        1..=3 => random.of(&[
            reg::CR0,
            reg::GERRORN,
            reg::CMDQ_PROD,
            reg::CMDQ_CONS,
            reg::IRQ_CTRL,
        ]),
        4 => random.of(&[reg::CMDQ_BASE, reg::STRTAB_BASE, reg::EVENTQ_BASE]),
        _ => random.next() % 0x100,
    };
    let noise = random.next();
    let value = match random.next() % 4 {
        0 => noise,
        1 => noise & 0x1f,
        2 => {
            random.of(&[RAM, NOWHERE, 0, smmu.base(), 0x0900_0000, 0x0801_0000]) | noise & 0xf_ffff
        }
        _ => random.of(&[
            u64::MAX,
            0,
            CMDQEN.into(),
            (CMDQEN | SMMUEN | EVENTQEN).into(),
            1,
        ]),
    };
    let address = smmu.base() + offset;
    match random.next() % 8 {
        0 => drop(smmu.machine().read64(address & !7)),
        1 => drop(smmu.machine().read32(address & !3)),
        2 | 3 => smmu.machine().write64(address & !7, value),
        _ => smmu.machine().write32(address & !3, value as u32),
    }
}

fn survives_hostility(seed: u64) {
    let machine = Builder::virt(qemu())
        .smmu("accel=on,ats=on,ril=on,ssidsize=20,oas=48")
        .start();
    let smmu = Smmu::find(&machine);
    let mut random = Random::new(seed);
    for _ in 0..40 {
        // commands: noise with an opcode that is often a real one
        let commands: Vec<Command> = (0..256)
            .map(|_| {
                let opcode =
                    random.of(&[0x03, 0x04, 0x05, 0x06, 0x11, 0x12, 0x13, 0x30, 0x40, 0x46]);
                [random.next() & !0xff | opcode, random.next()]
            })
            .collect();
        machine.write_memory(
            RAM + (random.next() & 0xf_f000),
            &command::to_bytes(&commands),
        );
        for _ in 0..500 {
            hostile_access(&smmu, &mut random);
        }
        assert_eq!(machine.status(), "running", "seed {seed:#x}");
    }
    machine.system_reset();
    smmu.setup_queue(RAM, 4);
    smmu.submit(&[SYNC]);
    assert_idle(&smmu, 1);
    let finished = machine.quit();
    assert!(finished.status.success(), "seed {seed:#x}\n{finished}");
    let complaints = finished.complaints().len();
    assert!(
        complaints < 20,
        "seed {seed:#x}: {complaints} lines\n{finished}"
    );
}

#[test]
fn hostile_register_accesses_do_no_harm() {
    for seed in [0x1, 0xdead_beef, 0x0123_4567_89ab_cdef, 0x5eed_5eed] {
        survives_hostility(seed);
    }
}

// --- migration ---

#[test]
fn migration_is_refused_with_a_reason() {
    let machine = start();
    let error = machine
        .try_qmp("migrate", json!({ "uri": "file:/dev/null" }))
        .expect_err("migration began");
    assert!(error.description.contains("accel=on"), "{error}");
    let state = machine.qmp("query-migrate", json!({}));
    assert!(
        state["blocked-reasons"].to_string().contains("accel=on"),
        "{state}"
    );
    assert_eq!(machine.status(), "running");
}
