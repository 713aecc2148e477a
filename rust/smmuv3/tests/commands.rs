// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Decoding commands: every opcode, every condition that makes one ILLEGAL,
//! and that nothing is forwarded which a host would refuse.

use crate::common::vector_features;
use proptest::prelude::*;
use smmuv3::{
    command::{decode, Command, CompletionSignal, Invalidation},
    Features, Illegal,
};

fn forwarded(words: [u64; 2], features: &Features) -> [u64; 2] {
    match decode(words, features) {
        Ok(Command::Invalidate(command)) => command.to_words(),
        other => panic!("{words:x?} is not forwarded: {other:?}"),
    }
}

fn is_illegal(words: [u64; 2], features: &Features) -> bool {
    decode(words, features) == Err(Illegal)
}

/// Returns the opcodes that are legal with these features and all fields zero.
fn legal_opcodes(features: &Features) -> Vec<u8> {
    (0..=0xff)
        .filter(|opcode| decode([u64::from(*opcode), 0], features).is_ok())
        .collect()
}

#[test]
fn stage1_smmu_legal_opcodes() {
    assert_eq!(
        legal_opcodes(&vector_features()),
        [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x40, 0x46]
    );
    assert_eq!(
        legal_opcodes(&vector_features().with_ats(false)),
        [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x46]
    );
}

#[test]
fn stage2_smmu_legal_opcodes() {
    let features = vector_features().with_s1p(false).with_s2p(true);
    assert_eq!(
        legal_opcodes(&features),
        [0x01, 0x02, 0x03, 0x04, 0x28, 0x2a, 0x30, 0x40, 0x46]
    );
    // Hyp takes both stages (§6.3.1).
    assert_eq!(
        legal_opcodes(&features.with_hyp(true)),
        legal_opcodes(&features)
    );
}

#[test]
fn feature_enables_its_opcodes() {
    let base = vector_features();
    let brings = |features: Features| -> Vec<u8> {
        let known = legal_opcodes(&base);
        legal_opcodes(&features)
            .into_iter()
            .filter(|opcode| !known.contains(opcode))
            .collect()
    };
    assert_eq!(brings(base.with_s2p(true)), [0x28, 0x2a]);
    assert_eq!(brings(base.with_hyp(true)), [0x20, 0x21, 0x22, 0x23]);
    assert_eq!(brings(base.with_pri(true)), [0x41]);
    assert_eq!(brings(base.with_stall_model(0b00)), [0x44, 0x45]);
    assert_eq!(brings(base.with_stall_model(0b10)), [0x44, 0x45]);
    assert_eq!(brings(base.with_dpt(true)), [0x70, 0x73]);
    assert_eq!(brings(base.with_mpam(true)), [0x07]);
    let everything = base
        .with_s2p(true)
        .with_hyp(true)
        .with_pri(true)
        .with_stall_model(0)
        .with_dpt(true)
        .with_mpam(true);
    for reserved in [0x00, 0x08, 0x18, 0x1a, 0x50, 0x58, 0x60, 0x80, 0x8f, 0xff] {
        assert!(is_illegal([reserved, 0], &everything), "{reserved:#x}");
    }
}

#[test]
fn ssec_is_illegal() {
    const SSEC: u64 = 1 << 10;
    let features = vector_features()
        .with_stall_model(0)
        .with_pri(true)
        .with_mpam(true)
        .with_dpt(true);
    for opcode in legal_opcodes(&features) {
        let plain = decode([u64::from(opcode), 0], &features);
        let secure = decode([u64::from(opcode) | SSEC, 0], &features);
        if matches!(opcode, 0x01..=0x07 | 0x44 | 0x45) {
            assert_eq!(secure, Err(Illegal), "{opcode:#x}");
        } else {
            assert_eq!(secure, plain, "{opcode:#x}");
        }
    }
    // CMD_CFGI_ALL is CMD_CFGI_STE_RANGE.
    assert!(is_illegal([0x04 | SSEC, 31], &features));
}

#[test]
fn cmd_sync_decodes_every_completion_signal() {
    let base = vector_features();
    let signal =
        |word0: u64, word1: u64, features: &Features| match decode([0x46 | word0, word1], features)
        {
            Ok(Command::Sync { signal }) => Some(signal),
            Err(Illegal) => None,
            other => panic!("{other:?}"),
        };
    let msi = base.with_msi(true);
    let none = Some(CompletionSignal::None);
    assert_eq!(signal(0, 0x1000, &msi), none);
    assert_eq!(signal(0x1000, 0, &base), Some(CompletionSignal::Irq));
    assert_eq!(signal(0x1000, 0x1000, &base), Some(CompletionSignal::Irq));
    let wired = Some(CompletionSignal::Irq);
    assert_eq!(signal(0x1000, 0, &msi), wired);
    // Bits [1:0] and [63:56] are not part of the address.
    assert_eq!(signal(0x1000, 0xff00_0000_0000_0003, &msi), wired);
    assert_eq!(
        signal(0xcafe_0000_1000, 0xff00_0000_4800_1007, &msi),
        Some(CompletionSignal::Msi {
            address: 0x4800_1004,
            data: 0xcafe,
        })
    );
    // Compared with zero before, truncated to OAS after.
    assert_eq!(
        signal(0x1000, 1 << 44, &msi),
        Some(CompletionSignal::Msi {
            address: 0,
            data: 0
        })
    );
    assert_eq!(signal(0x2000, 0, &base), none);
    assert_eq!(
        signal(0x2000, 0, &base.with_sev(true)),
        Some(CompletionSignal::Sev)
    );
    assert_eq!(signal(0x3000, 0, &msi), None);
    // MSH and MSIAttr.
    assert_eq!(signal(0x0fc0_0000, 0, &base), none);
}

/// `CMD_TLBI_NH_VA` of ASID 5 at 64KB-aligned addresses, leaf.
fn nh_va(num: u64, scale: u64, granule: u64, level: u64) -> [u64; 2] {
    [
        0x5_0000_0000_0012 | (num << 12) | (scale << 20),
        0x10001 | (granule << 10) | (level << 8),
    ]
}

#[test]
fn range_tlbi_is_forwarded_unchanged() {
    let features = vector_features();
    for granule in 1..=3 {
        for level in 0..=3 {
            for (num, scale) in [(0, 1), (1, 0), (31, 31), (0, 0)] {
                let words = nh_va(num, scale, granule, level);
                let no_level_1 = granule == 2 && level == 1;
                if num == 0 && scale == 0 && (level == 0 || no_level_1) {
                    assert!(is_illegal(words, &features), "{words:x?}");
                } else if no_level_1 {
                    // Level 1 of the 16KB granule is no level.
                    let without = nh_va(num, scale, granule, 0);
                    assert_eq!(forwarded(words, &features), without);
                } else {
                    assert_eq!(forwarded(words, &features), words);
                }
            }
        }
    }
}

#[test]
fn ds_allows_16k_level1_and_wide_scale() {
    let features = vector_features().with_ds(true);
    for words in [nh_va(0, 0, 2, 1), nh_va(3, 2, 2, 1), nh_va(0, 32, 1, 0)] {
        assert_eq!(forwarded(words, &features), words);
    }
    let narrow = vector_features();
    assert!(is_illegal(nh_va(0, 32, 1, 0), &narrow));
    assert_eq!(forwarded(nh_va(1, 33, 1, 0), &narrow), nh_va(1, 1, 1, 0));
}

#[test]
fn range_fields_ignored_without_ril_or_tg() {
    let no_ril = vector_features().with_ril(false);
    let plain = nh_va(0, 0, 0, 0);
    for granule in 0..=3 {
        for level in 0..=3 {
            for (num, scale) in [(0, 0), (3, 1), (31, 63)] {
                let words = nh_va(num, scale, granule, level);
                assert_eq!(forwarded(words, &no_ril), plain);
                if granule == 0 {
                    assert_eq!(forwarded(words, &vector_features()), plain);
                }
            }
        }
    }
}

#[test]
fn reserved_tg_ttl_num_scale_is_illegal() {
    let features = vector_features().with_hyp(true).with_s2p(true);
    for opcode in [0x12, 0x13, 0x22, 0x23, 0x2a] {
        let reserved = [opcode, 0x10c00];
        assert!(is_illegal(reserved, &features), "{opcode:#x}");
        assert!(!is_illegal([opcode, 0x10f00], &features), "{opcode:#x}");
        assert!(
            !is_illegal(reserved, &features.with_ril(false)),
            "{opcode:#x}"
        );
    }
}

#[test]
fn ttl128_is_never_forwarded() {
    let words = nh_va(0, 0, 1, 3);
    let ttl128 = [words[0], words[1] | 0x80];
    assert_eq!(forwarded(ttl128, &vector_features()), words);
}

#[test]
fn el2_tlbi_is_widened_to_nsnh_all() {
    let features = vector_features().with_hyp(true).with_s2p(true);
    for opcode in [0x20, 0x21, 0x22, 0x23] {
        assert_eq!(forwarded([opcode, 0x1001], &features), [0x30, 0]);
    }
}

#[test]
fn vmid_matched_only_with_stage2() {
    let features = vector_features().with_s2p(true);
    let alone = vector_features();
    let narrow = features.with_vmid16(false);
    for opcode in [0x10, 0x11, 0x12, 0x13] {
        let asid = |words: [u64; 2]| words[0] & !(0xffff << 32);
        let words = [0xaaaa_bbcc_0000_0000 | opcode, 0];
        let vmid = |smmu| forwarded(words, smmu)[0] & (0xffff << 32);
        assert_eq!(vmid(&features), 0xbbcc_0000_0000, "{opcode:#x}");
        assert_eq!(vmid(&narrow), 0x00cc_0000_0000, "{opcode:#x}");
        assert_eq!(vmid(&alone), 0, "{opcode:#x}");
        let without_vmid = forwarded(words, &alone);
        assert_eq!(asid(forwarded(words, &features)), asid(without_vmid));
    }
}

#[test]
fn stage2_tlbi_is_forwarded_unchanged() {
    let features = vector_features().with_s2p(true);
    let narrow = features.with_vmid16(false);
    // Everything but Address, Leaf, TG, TTL and the range is Reserved.
    let all = |opcode: u64| [!0xff | opcode, u64::MAX];
    assert_eq!(forwarded(all(0x28), &features), [0xffff_0000_0028, 0]);
    assert_eq!(forwarded(all(0x28), &narrow), [0x00ff_0000_0028, 0]);
    let by_ipa = |vmid: u64| [(vmid << 32) | 0x1f1_f02a, !0xfff | 0xf01];
    assert_eq!(forwarded(all(0x2a), &features), by_ipa(0xffff));
    assert_eq!(forwarded(all(0x2a), &narrow), by_ipa(0xff));
    let no_ril = features.with_ril(false);
    assert_eq!(
        forwarded(all(0x2a), &no_ril),
        [0xffff_0000_002a, !0xfff | 1]
    );
}

#[test]
fn asid_is_truncated_to_implemented_bits() {
    let words = [0xabcd_0077_0000_0011, 0];
    assert_eq!(
        forwarded(words, &vector_features()),
        [0xabcd_0000_0000_0011, 0]
    );
    let narrow = vector_features().with_asid16(false);
    assert_eq!(forwarded(words, &narrow), [0x00cd_0000_0000_0011, 0]);
    let by_va = [0xabcd_0077_0000_0012, 0x1001];
    assert_eq!(forwarded(by_va, &narrow), [0x00cd_0000_0000_0012, 0x1001]);
    let by_vaa = [0xabcd_0077_0000_0013, 0x1001];
    assert_eq!(forwarded(by_vaa, &narrow), [0x13, 0x1001]);
}

#[test]
fn out_of_range_stream_ids_have_no_effect() {
    let features = vector_features().with_ssidsize(8);
    let ok = |words| decode(words, &features);
    let none = Ok(Command::NoEffect);
    for opcode in [0x03, 0x05, 0x06, 0x40] {
        assert_ne!(ok([opcode | (0xffff << 32), 0]), none, "{opcode:#x}");
        assert_eq!(ok([opcode | (0x1_0000 << 32), 0]), none, "{opcode:#x}");
        assert_eq!(ok([opcode | (0xffff_ffff << 32), 0]), none, "{opcode:#x}");
    }
    // CMD_CFGI_CD has no SSV.
    assert_ne!(ok([0x8_000f_f005, 1]), none);
    assert_eq!(ok([0x8_0010_0005, 1]), none);
    let no_substreams = vector_features().with_ssidsize(0);
    assert_eq!(decode([0x8_0000_1005, 1], &no_substreams), none);
    assert_ne!(decode([0x8_0000_0005, 1], &no_substreams), none);
    // CMD_ATC_INV has, and ignores SSID and Global without it.
    assert_eq!(ok([0x8_0010_0840, 0]), none);
    assert_eq!(forwarded([0x8_0010_0240, 0], &features), [0x8_0000_0040, 0]);
    assert_eq!(forwarded([0x8_000f_fa40, 0], &features), [0x8_000f_fa40, 0]);
    assert_eq!(
        forwarded([0x8_0010_0a40, 0], &no_substreams),
        [0x8_0000_0040, 0]
    );
}

#[test]
fn atc_inv_every_size_is_legal() {
    for size in 0..64 {
        let words = [0x8_0000_0040, size];
        assert_eq!(is_illegal(words, &vector_features()), size > 52, "{size}");
    }
}

#[test]
fn atc_inv_names_aligned_addresses() {
    let features = vector_features();
    let addresses = |words| match decode(words, &features) {
        Ok(Command::Invalidate(Invalidation::AtcInv(atc))) => atc.addresses_without_substream(),
        other => panic!("{other:x?}"),
    };
    assert_eq!(
        addresses([0x8_0000_0040, 0x1234_5000]),
        Some((0x1234_5000, 0x1234_5fff))
    );
    assert_eq!(
        addresses([0x8_0000_0040, 0x1234_5004]),
        Some((0x1234_0000, 0x1234_ffff))
    );
    assert_eq!(addresses([0x8_0000_0040, 52]), Some((0, u64::MAX)));
    // SSV, and Global
    assert_eq!(addresses([0x8_0000_1840, 0]), None);
    assert_eq!(addresses([0x8_0000_1a40, 0]), Some((0, 0xfff)));
}

#[test]
fn cfgi_ste_range_is_aligned_and_capped() {
    let range = |sid: u64, range: u64| decode([0x04 | (sid << 32), range], &vector_features());
    let covers = |first, last| Ok(Command::CfgiSteRange { first, last });
    assert_eq!(range(0x1b, 0), covers(0x1a, 0x1b));
    assert_eq!(range(0x1b, 1), covers(0x18, 0x1b));
    assert_eq!(range(0x1b, 15), covers(0, 0xffff));
    assert_eq!(range(0x1b, 30), covers(0, 0xffff));
    assert_eq!(range(0xffff_ffff, 31), covers(0, 0xffff));
    assert_eq!(range(0x1_0000, 3), Ok(Command::NoEffect));
    assert_eq!(range(0x1_0000, 16), covers(0, 0xffff));
    let wide = vector_features().with_sidsize(32);
    assert_eq!(
        decode([0x04 | (0xffff_ffff << 32), 30], &wide),
        covers(0x8000_0000, 0xffff_ffff)
    );
}

#[test]
fn unused_legal_commands_have_no_effect() {
    let features = vector_features()
        .with_pri(true)
        .with_stall_model(0)
        .with_dpt(true);
    let none = Ok(Command::NoEffect);
    assert_eq!(decode([0x8_0000_0041, 0x2000], &features), none);
    assert!(is_illegal([0x8_0000_0041, 0x3000], &features));
    assert_eq!(decode([0x8_0000_1044, 1], &features), none);
    assert_eq!(decode([0x8_0000_0045, 0], &features), none);
    assert_eq!(decode([0x73, 0x1000], &features), none);
}

/// Returns whether Linux would execute a command for a guest, on a host with the
/// same features.
fn host_accepts([word0, word1]: [u64; 2], features: &Features) -> bool {
    let ssid = features.ssidsize() != 0;
    let asid: u64 = if features.asid16() {
        0xffff << 48
    } else {
        0xff << 48
    };
    let vmid: u64 = 0xffff << 32;
    let sid: u64 = 0xffff_ffff << 32;
    let scale: u64 = if features.ds() {
        0x3f << 20
    } else {
        0x1f << 20
    };
    let range = if features.ril() {
        (0x1f << 12) | scale
    } else {
        0
    };
    let hint: u64 = if features.ril() { 0xf00 } else { 0 };
    let by_address = !0xfff | hint | 1;
    let (allowed0, allowed1) = match word0 as u8 {
        0x05 if ssid => (sid | 0xffff_f000, 1),
        0x05 => (sid, 1),
        0x06 => (sid, 0),
        0x10 => (vmid, 0),
        0x11 => (vmid | asid, 0),
        0x12 => (vmid | asid | range, by_address),
        0x13 => (vmid | range, by_address),
        0x30 => (0, 0),
        0x40 if !features.ats() || word1 & 0x3f > 52 => return false,
        0x40 if ssid => (sid | 0xffff_fa00, !0xfff | 0x3f),
        0x40 => (sid, !0xfff | 0x3f),
        _ => return false,
    };
    if word0 & !(allowed0 | 0xff) != 0 || word1 & !allowed1 != 0 {
        return false;
    }
    if matches!(word0 as u8, 0x12 | 0x13) {
        let (granule, level) = ((word1 >> 10) & 3, (word1 >> 8) & 3);
        let plain = word0 & range == 0 && level == 0;
        let no_level_1 = granule == 2 && level == 1 && !features.ds();
        return if granule == 0 {
            plain
        } else {
            !plain && !no_level_1
        };
    }
    true
}

prop_compose! {
    fn any_features()(
        idr in any::<[u32; 6]>(),
        aidr in 0..5_u32,
        plain in any::<bool>(),
        ats in any::<bool>(),
        ril in any::<bool>(),
        ds in any::<bool>(),
        asid16 in any::<bool>(),
        ssidsize in 0..=20_u8,
    ) -> Features {
        let features = if plain {
            Features::arm_smmuv3()
        } else {
            Features { idr, iidr: 0, aidr }
        };
        features
            .with_ats(ats)
            .with_ril(ril)
            .with_ds(ds)
            .with_asid16(asid16)
            .with_ssidsize(ssidsize)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn forwarded_commands_are_valid_for_host(
        opcode in 0..0x48_u64,
        word0: u64,
        word1: u64,
        sparse in any::<u64>(),
        features in any_features(),
    ) {
        // Half of the words with fewer bits, else hardly any field is zero.
        let word0 = (word0 & sparse & !0xff) | opcode;
        let word1 = word1 & sparse.rotate_left(17);
        if let Ok(Command::Invalidate(command)) = decode([word0, word1], &features) {
            let (words, target) = (command.to_words(), command.target());
            // With stage 2 the SMMU is in software, which takes more.
            if !features.s2p() {
                prop_assert!(host_accepts(words, &features), "{:x?}", words);
            }
            let names_stream = !matches!(command, Invalidation::Tlbi(_));
            prop_assert_eq!(target, names_stream.then_some((word0 >> 32) as u32));
            prop_assert!(target.is_none_or(|sid| sid <= features.max_sid()));
            // Decoding a forwarded command again changes nothing.
            prop_assert_eq!(decode(words, &features), Ok(Command::Invalidate(command)));
        }
    }
}
