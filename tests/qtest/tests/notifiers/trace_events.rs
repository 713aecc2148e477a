// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Trace events of IOMMU notifiers have the format of the C device's.

use std::path::PathBuf;

use smmuv3_qtest::{
    command::TLBI_NSNH_ALL,
    qemu, qemu_c,
    tables::Allow,
    translated::{Stages, ASID},
    Builder,
};

use crate::bench::{Bench, Served, DATA, IOVA};

/// Returns the trace of a page that is used and unmapped, twice.
fn trace(binary: PathBuf) -> Vec<String> {
    let stages = Stages::One;
    let builder = Builder::virt_with(binary, "memory-backend=ram")
        .args(["-object", "memory-backend-memfd,id=ram,size=128M,share=on"])
        .args(["-m", "128M", "-trace", "smmu*notif*"])
        .device("arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,stage=1");
    let served = Served::start(builder, stages, "bus=pcie.0,addr=6");
    {
        let bench = Bench::new(&served);
        bench.input().map(IOVA, DATA, Allow::ReadWrite);
        bench.translates(IOVA, DATA);
        bench.submit(&[[0x12 | (u64::from(ASID) << 48), IOVA | 1]]);
        bench.submit(&[TLBI_NSNH_ALL]);
    }
    served.machine.system_reset();
    let finished = served.machine.quit();
    let lines = finished.error_lines();
    lines.into_iter().map(str::to_owned).collect()
}

/// Returns the lines of one event.
fn lines(trace: &[String], event: &str) -> Vec<String> {
    trace
        .iter()
        .filter(|line| line.split(' ').next() == Some(event))
        // without stage 2 the C device has no VMID, and this one 0
        .map(|line| line.trim_end().replace("vmid=-1", "vmid=0"))
        .collect()
}

#[test]
fn notifier_trace_events_match_c_device() {
    let [rust, c] = [qemu(), qemu_c()].map(trace);
    for event in ["smmuv3_notify_flag_add", "smmuv3_notify_flag_del"] {
        assert!(!lines(&c, event).is_empty(), "{event}: {c:#?}");
        assert_eq!(lines(&rust, event), lines(&c, event));
    }
    // this one also notifies when the SMMU is enabled, and in units of 4 KiB
    for event in ["smmu_inv_notifiers_mr", "smmuv3_inv_notifiers_iova"] {
        let essence = |line: &String| line.split(" tg=").next().map(str::to_owned);
        let traced = lines(&rust, event);
        for line in lines(&c, event).iter().map(essence) {
            assert!(
                traced.iter().any(|other| essence(other) == line),
                "{line:?}: {traced:#?}"
            );
        }
        assert!(!lines(&c, event).is_empty(), "{event}: {c:#?}");
    }
}
