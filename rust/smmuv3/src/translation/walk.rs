// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Walks of VMSAv8-64 translation tables (§3.4, §3.10; Arm ARM D8.2, D8.3).

use super::{
    context::{Context, Stages},
    fault::Fault,
    Caches, Entry, Permissions, Tag, WalkStep,
};
use crate::{
    address::{align_down, exceeds, truncate},
    cd::{Translation, TranslationTable},
    event::{Class, EventType},
    memory::GuestMemory,
    spec::vmsa::{Address64K, Descriptor, InputAddress, Stage1Leaf, Stage1Table, Stage2Leaf},
    ste::Stage2,
};

/// The last level.
const LAST_LEVEL: u8 = 3;
/// log2 of the size of a descriptor in bytes.
const DESCRIPTOR_LOG2_BYTES: u8 = 3;

/// The surroundings of a walk: the memory that holds the tables, and the TLB.
pub(super) struct Walker<'a, M, C> {
    pub(super) memory: &'a mut M,
    pub(super) caches: &'a mut C,
    /// The SMMU's output address size.
    pub(super) oas_bits: u8,
}

/// Geometry of the tables of one stage.
#[derive(Clone, Copy)]
struct Tables {
    granule_shift: u8,
    /// Number of input address bits.
    input_bits: u8,
    start_level: u8,
    base: u64,
    /// Output addresses have no more bits than this.
    output_bits: u8,
    /// Descriptors have 52-bit addresses: the 64KB granule where OAS is as large.
    wide: bool,
}

/// A decoded descriptor.
enum Decoded {
    Invalid,
    /// The table of the next level is at `address`.
    Table {
        address: u64,
    },
    /// A page or block at `address`.
    Leaf {
        address: u64,
    },
}

impl Tables {
    fn stage1(table: &TranslationTable, output_bits: u8, oas_bits: u8) -> Self {
        let input_bits = 64 - table.tsz;
        // At least 9. The compiler does not know that, and a panic would stand at the division.
        let stride = (table.granule_shift - DESCRIPTOR_LOG2_BYTES).max(1);
        Self {
            granule_shift: table.granule_shift,
            input_bits,
            // as many levels as it takes to resolve the bits above the page offset
            start_level: LAST_LEVEL + 1 - (input_bits - table.granule_shift).div_ceil(stride),
            base: table.base,
            output_bits: limit_output(table.granule_shift, output_bits),
            wide: is_wide(table.granule_shift, oas_bits),
        }
    }

    const fn stage2(stage2: &Stage2, oas_bits: u8) -> Self {
        Self {
            granule_shift: stage2.granule_shift,
            input_bits: 64 - stage2.tsz,
            start_level: stage2.start_level,
            base: stage2.base,
            output_bits: stage2.oas_bits,
            wide: is_wide(stage2.granule_shift, oas_bits),
        }
    }

    /// Returns log2 of the bytes that one descriptor of `level` maps.
    const fn shift(&self, level: u8) -> u8 {
        let stride = self.granule_shift - DESCRIPTOR_LOG2_BYTES;
        self.granule_shift + (LAST_LEVEL - level) * stride
    }

    /// Returns the address of the descriptor of `input` in the table of `level` at
    /// `table`, and which one of the table it is.
    fn descriptor(&self, table: u64, level: u8, input: u64) -> (u64, u32) {
        let shift = self.shift(level);
        let stride = self.granule_shift - DESCRIPTOR_LOG2_BYTES;
        // The table at the start level is smaller than the others, or several
        // of them lie side by side.
        let index_bits = if level == self.start_level {
            self.input_bits - shift
        } else {
            stride
        };
        let index = truncate(input >> shift, index_bits.into());
        // With 52-bit output a table is aligned to 64 bytes at least (§5.4, TTB0).
        let smallest = if self.output_bits > 48 { 6 } else { 0 };
        let aligned = (index_bits + DESCRIPTOR_LOG2_BYTES).max(smallest);
        let table = align_down(table, aligned.into());
        // at most 13 bits, and 4 more where tables lie side by side
        (table | (index << DESCRIPTOR_LOG2_BYTES), index as u32)
    }

    /// Returns whether an output address is in range.
    fn fits(&self, address: u64) -> bool {
        !exceeds(address, self.output_bits.into())
    }

    /// Reads `descriptor`, found at `level`.
    fn decode(&self, descriptor: u64, level: u8) -> Decoded {
        let descriptor = Descriptor::of(descriptor);
        match (descriptor.valid(), descriptor.table_or_page(), level) {
            (false, ..) | (true, false, LAST_LEVEL) => Decoded::Invalid,
            (true, true, LAST_LEVEL) => Decoded::Leaf {
                address: self.address(descriptor, self.granule_shift),
            },
            (true, true, _) => Decoded::Table {
                address: self.address(descriptor, self.granule_shift),
            },
            (true, false, _) if self.has_blocks(level) => Decoded::Leaf {
                address: self.address(descriptor, self.shift(level)),
            },
            (true, false, _) => Decoded::Invalid,
        }
    }

    /// Returns whether blocks exist at `level`, which is not the last one.
    const fn has_blocks(&self, level: u8) -> bool {
        match self.granule_shift {
            12 => level == 1 || level == 2,
            14 => level == 2,
            // 4TB blocks come with 52-bit addresses.
            _ => level == 2 || (level == 1 && self.wide),
        }
    }

    /// Returns the address in `descriptor`, aligned to `2^low` bytes.
    fn address(&self, descriptor: Descriptor, low: u8) -> u64 {
        let address = if self.wide {
            Address64K::of(descriptor.raw()).output()
        } else {
            descriptor.output()
        };
        align_down(address, low.into())
    }
}

/// Returns whether descriptors have address bits 51:48, in their bits 15:12.
const fn is_wide(granule_shift: u8, oas_bits: u8) -> bool {
    granule_shift == 16 && oas_bits >= 52
}

/// More than 48 bits can be output with the 64KB granule only (§3.4).
fn limit_output(granule_shift: u8, output_bits: u8) -> u8 {
    if granule_shift == 16 {
        output_bits.min(52)
    } else {
        output_bits.min(48)
    }
}

/// The reason that a stage does not translate.
#[derive(Clone, Copy)]
enum Cause {
    Fault(EventType),
    /// Reading the descriptor at this address aborted.
    Abort(u64),
}

/// A descriptor of the last level reached.
struct Leaf {
    descriptor: u64,
    output: u64,
    shift: u8,
}

/// The step after a descriptor.
enum Step {
    /// The table of the next level.
    Down {
        table: u64,
        descriptor: u64,
    },
    Done(Leaf),
}

impl<M: GuestMemory, C: Caches> Walker<'_, M, C> {
    /// Translates `input`, an effective address, by walks of all stages.
    pub(super) fn walk(
        &mut self,
        context: &Context,
        input: u64,
        wanted: Permissions,
    ) -> Result<Entry, Fault> {
        match &context.stages {
            Stages::Stage1(stage1) => self.stage1(context, stage1, None, input, wanted),
            Stages::Stage2(stage2) => {
                // Stage 1 is bypassed: its output address is the input (§3.4).
                if exceeds(input, context.ias_bits.into()) {
                    return Err(Fault::bypassed_address_size());
                }
                self.walk_ipa(context.vmid, stage2, input, wanted, Class::In)
            }
            Stages::Nested(stage1, stage2) => {
                let outer = self.stage1(context, stage1, Some(stage2), input, wanted)?;
                let ipa = outer.translate(input);
                let inner = self.ipa(context.vmid, stage2, ipa, wanted, Class::In)?;
                if outer.log2_bytes > inner.log2_bytes {
                    self.caches.note_split(outer.log2_bytes);
                }
                Ok(combine(&outer, &inner, ipa))
            }
        }
    }

    fn stage1(
        &mut self,
        context: &Context,
        stage1: &Translation,
        stage2: Option<&Stage2>,
        input: u64,
        wanted: Permissions,
    ) -> Result<Entry, Fault> {
        let fault = |cause| match cause {
            Cause::Fault(event) => Fault {
                event,
                address: 0,
                stage2: false,
                class: Class::In,
                recorded: stage1.record_faults,
            },
            Cause::Abort(address) => Fault {
                event: EventType::WalkAbort,
                address,
                stage2: false,
                class: Class::Tt,
                recorded: true,
            },
        };
        let upper = InputAddress::is_upper(input);
        let stage1_table = &stage1.tables[usize::from(upper)];
        let sign = if upper { u64::MAX } else { 0 };
        let outside = exceeds(input ^ sign, u32::from(64 - stage1_table.tsz));
        if stage1_table.disabled || outside {
            return Err(fault(Cause::Fault(EventType::Translation)));
        }
        let tables = Tables::stage1(stage1_table, stage1.oas_bits, self.oas_bits);
        let mut inherited = Permissions::ALL;
        let mut at = tables.base;
        let mut level = tables.start_level;
        let leaf = loop {
            let (mut address, index) = tables.descriptor(at, level, input);
            if let Some(stage2) = stage2 {
                let read = Permissions::READ;
                address = self
                    .ipa(context.vmid, stage2, address, read, Class::Tt)?
                    .translate(address);
            }
            match self
                .step(&tables, 1, level, input, (address, index))
                .map_err(fault)?
            {
                Step::Down { table, descriptor } => {
                    if !stage1_table.had {
                        inherited = inherited.and(table_permissions(Stage1Table::of(descriptor)));
                    }
                    at = table;
                    level += 1;
                }
                Step::Done(leaf) => break leaf,
            }
        };
        let page = Stage1Leaf::of(leaf.descriptor);
        if !stage1.affd && !page.af() {
            return Err(fault(Cause::Fault(EventType::Access)));
        }
        let permissions = inherited.and(leaf_permissions(page));
        if !permissions.allow(wanted) {
            return Err(fault(Cause::Fault(EventType::Permission)));
        }
        Ok(Entry {
            output: leaf.output,
            log2_bytes: leaf.shift,
            stage1: permissions,
            stage2: Permissions::ALL,
            device: false,
            global: !page.ng(),
        })
    }

    /// Translates an IPA by stage 2, through the TLB.
    pub(super) fn ipa(
        &mut self,
        vmid: u16,
        stage2: &Stage2,
        ipa: u64,
        wanted: Permissions,
        class: Class,
    ) -> Result<Entry, Fault> {
        let tag = Tag { vmid, asid: None };
        match self.caches.lookup(tag, ipa) {
            Some(entry) if permitted(stage2, &entry, wanted, class) => Ok(entry),
            _ => self.walk_ipa(vmid, stage2, ipa, wanted, class),
        }
    }

    /// Returns the same by a walk.
    fn walk_ipa(
        &mut self,
        vmid: u16,
        stage2: &Stage2,
        ipa: u64,
        wanted: Permissions,
        class: Class,
    ) -> Result<Entry, Fault> {
        let tag = Tag { vmid, asid: None };
        let entry = self
            .stage2(stage2, ipa, wanted, class)
            .map_err(|cause| match cause {
                Cause::Fault(event) => Fault {
                    event,
                    address: ipa,
                    stage2: true,
                    class,
                    recorded: stage2.record_faults,
                },
                Cause::Abort(address) => Fault {
                    event: EventType::WalkAbort,
                    address,
                    stage2: true,
                    class,
                    recorded: true,
                },
            })?;
        self.caches.insert(tag, ipa, &entry);
        Ok(entry)
    }

    fn stage2(
        &mut self,
        stage2: &Stage2,
        ipa: u64,
        wanted: Permissions,
        class: Class,
    ) -> Result<Entry, Cause> {
        let tables = Tables::stage2(stage2, self.oas_bits);
        if exceeds(ipa, tables.input_bits.into()) {
            return Err(Cause::Fault(EventType::Translation));
        }
        let mut at = tables.base;
        let mut level = tables.start_level;
        let leaf = loop {
            let descriptor = tables.descriptor(at, level, ipa);
            match self.step(&tables, 2, level, ipa, descriptor)? {
                Step::Down { table, .. } => {
                    at = table;
                    level += 1;
                }
                Step::Done(leaf) => break leaf,
            }
        };
        let page = Stage2Leaf::of(leaf.descriptor);
        if !stage2.affd && !page.af() {
            return Err(Cause::Fault(EventType::Access));
        }
        let entry = Entry {
            output: leaf.output,
            log2_bytes: leaf.shift,
            stage1: Permissions::ALL,
            stage2: Permissions {
                read: page.s2ap_read(),
                write: page.s2ap_write(),
            },
            device: is_device(page),
            global: false,
        };
        if permitted(stage2, &entry, wanted, class) {
            Ok(entry)
        } else {
            Err(Cause::Fault(EventType::Permission))
        }
    }

    /// Reads a descriptor, given by its address and its index in the table of `level`
    /// that it was found in for `input`.
    fn step(
        &mut self,
        tables: &Tables,
        stage: u8,
        level: u8,
        input: u64,
        (address, index): (u64, u32),
    ) -> Result<Step, Cause> {
        let descriptor = self
            .memory
            .read_u64(address)
            .map_err(|_| Cause::Abort(address))?;
        self.caches.walked(&WalkStep {
            stage,
            level,
            input,
            log2_bytes: tables.shift(level),
            address,
            index,
            descriptor,
        });
        let (output, step) = match tables.decode(descriptor, level) {
            Decoded::Invalid => return Err(Cause::Fault(EventType::Translation)),
            Decoded::Table { address: table } => (table, Step::Down { table, descriptor }),
            Decoded::Leaf { address: output } => {
                let shift = tables.shift(level);
                let leaf = Leaf {
                    descriptor,
                    output,
                    shift,
                };
                (output, Step::Done(leaf))
            }
        };
        if tables.fits(output) {
            Ok(step)
        } else {
            Err(Cause::Fault(EventType::AddressSize))
        }
    }
}

/// Returns whether `MemAttr` of a stage 2 page or block is a type of Device memory (Arm
/// ARM D8.6). `STE.S2FWB`, which would change the encoding, is RES0 because
/// `IDR3.FWB` is 0 (§5.2).
fn is_device(page: Stage2Leaf) -> bool {
    page.memattr_outer().value() == 0b00
}

/// Returns whether stage 2 permits an access through `entry`, found by a walk or in the
/// TLB.
///
/// With `STE.S2PTW` stage 2 denies the SMMU's own reads for stage 1 of everything
/// that it maps as Device memory; otherwise a guest could have registers read
/// whose reads have effects (§5.2). The bit is checked with each access and is no
/// part of an entry, because streams that share entries, by their VMID, may differ
/// in it.
#[inline]
const fn permitted(stage2: &Stage2, entry: &Entry, wanted: Permissions, class: Class) -> bool {
    let of_stage1 = matches!(class, Class::Cd | Class::Tt);
    entry.stage2.allow(wanted) && !(entry.device && of_stage1 && stage2.protected_walks)
}

/// Returns the permissions of an unprivileged access to data by `AP[2:1]` of a stage 1
/// page or block.
///
/// No other access reaches the SMMU: a PCI function's transaction without PASID
/// is always Data and Unprivileged (§13.7), and `STE.PRIVCFG`
/// cannot change that, because `IDR1.ATTR_PERMS_OVR` is 0 (§5.2). So the
/// execute-never bits, `CD.WXN`, `CD.UWXN` and `CD.PAN` decide nothing, and one
/// entry of the TLB serves every access.
fn leaf_permissions(page: Stage1Leaf) -> Permissions {
    unprivileged(page.ap_unprivileged(), !page.ap_read_only())
}

/// Returns the permissions that `APTable` of a stage 1 table leaves unprivileged
/// accesses through it (Arm ARM D8.4).
fn table_permissions(table: Stage1Table) -> Permissions {
    unprivileged(!table.aptable_privileged(), !table.aptable_read_only())
}

const fn unprivileged(accessible: bool, writable: bool) -> Permissions {
    Permissions {
        read: accessible,
        write: accessible && writable,
    }
}

/// Stage 1's translation to `ipa` and stage 2's of that as one: as large as the
/// smaller of them.
fn combine(outer: &Entry, inner: &Entry, ipa: u64) -> Entry {
    let log2_bytes = outer.log2_bytes.min(inner.log2_bytes);
    Entry {
        output: align_down(inner.translate(ipa), log2_bytes.into()),
        log2_bytes,
        stage1: outer.stage1,
        stage2: inner.stage2,
        device: inner.device,
        global: outer.global,
    }
}
