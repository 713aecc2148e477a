// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Values of the read-only QOM properties: docs/statistics.md describes every name.

use qemu_ext::property::Value;
use smmuv3::{
    cmdq::{CommandCounters, Counters, HostCounters, QueueCounters},
    cmdqv::{QueueState, QUEUES},
    features::Features,
};

use crate::{
    accel::{AttachCounters, StreamStatus},
    cmdqv::CmdqvStatus,
    eventq::EventCounters,
    statistics::Statistics,
};

/// Everything that is counted.
pub struct AllCounters<'a> {
    /// The Command queue's
    pub cmdq: &'a Counters,
    /// Doorbells
    pub doorbells: u64,
    /// Attachments
    pub attach: AttachCounters,
    /// Events
    pub events: EventCounters,
    /// Translations
    pub translations: Statistics,
    /// Notifications of device IOTLBs
    pub notifications: u64,
    /// CMDQ virtualization, if the SMMU has it
    pub cmdqv: Option<CmdqvStatus>,
    /// Counters of VCMDQs that are executed here
    pub vcmdqs: [Counters; QUEUES],
}

/// Returns the property `implementation`, which the C device does not have.
pub fn implementation() -> Value {
    "smmuv3-accel (Rust)".to_owned().into()
}

/// Returns the property `statistics`.
pub fn statistics(counters: &AllCounters<'_>) -> Value {
    let cmdq = counters.cmdq;
    let mut members = vec![
        (c"commands", commands(&cmdq.commands())),
        (c"queue", queue(&cmdq.queue, counters.doorbells)),
        (c"host", host(&all_calls(cmdq, &counters.vcmdqs))),
        (c"attach", attach(&counters.attach)),
        (c"events", events(&counters.events)),
        (
            c"translations",
            translations(&counters.translations, counters.notifications),
        ),
    ];
    if let Some(status) = &counters.cmdqv {
        members.push((c"cmdqv", cmdqv(status, &counters.vcmdqs)));
    }
    Value::Struct(members)
}

fn all_calls(cmdq: &Counters, vcmdqs: &[Counters; QUEUES]) -> HostCounters {
    let queues = vcmdqs.iter().map(|queue| &queue.host);
    queues.fold(cmdq.host, HostCounters::plus)
}

fn cmdqv(status: &CmdqvStatus, vcmdqs: &[Counters; QUEUES]) -> Value {
    let counters = &status.counters;
    let number = |of: QueueState| {
        let queues = status.queues.iter().filter(|state| **state == of);
        queues.fold(0_u64, |number, _| number + 1)
    };
    let sum = |get: fn(&Counters) -> u64| vcmdqs.iter().map(get).fold(0, u64::wrapping_add);
    Value::Struct(vec![
        (c"in-hardware", number(QueueState::Hardware).into()),
        (c"in-software", number(QueueState::Software).into()),
        (c"stuck", status.is_stuck.into()),
        (c"allocations", counters.allocations.into()),
        (c"refused", counters.refused.into()),
        (c"outside-ram", counters.outside_ram.into()),
        (c"postponed", counters.postponed.into()),
        (c"releases", counters.releases.into()),
        (c"release-failures", counters.release_failures.into()),
        (c"release-ns", counters.release_ns.into()),
        (c"longest-release-ns", counters.longest_release_ns.into()),
        (c"page-shown", counters.page_shown.into()),
        (c"events", counters.events.into()),
        (c"lost-events", counters.lost_events.into()),
        (c"interrupts", counters.interrupts.into()),
        (c"commands", sum(|queue| queue.commands().consumed).into()),
        (c"errors", sum(|queue| errors(&queue.queue)).into()),
        (c"host-calls", sum(|queue| queue.host.calls).into()),
    ])
}

const fn errors(queue: &QueueCounters) -> u64 {
    queue
        .errors_ill
        .wrapping_add(queue.errors_abt)
        .wrapping_add(queue.errors_atc_inv_sync)
}

fn commands(commands: &CommandCounters) -> Value {
    Value::Struct(vec![
        (c"consumed", commands.consumed.into()),
        (c"cfgi-ste", commands.cfgi_ste.into()),
        (c"cfgi-range", commands.cfgi_range.into()),
        (c"cfgi-cd", commands.cfgi_cd.into()),
        (c"tlbi", commands.tlbi.into()),
        (c"atc-inv", commands.atc_inv.into()),
        (c"sync", commands.sync.into()),
        (c"prefetch", commands.prefetch.into()),
        (c"other", commands.other.into()),
        (c"illegal", commands.illegal.into()),
        (c"forwarded", commands.forwarded.into()),
        (c"without-effect", commands.without_effect.into()),
    ])
}

fn queue(queue: &QueueCounters, doorbells: u64) -> Value {
    Value::Struct(vec![
        (c"doorbells", doorbells.into()),
        (c"runs", queue.runs.into()),
        (c"slices", queue.slices.into()),
        (c"deferred", queue.deferred.into()),
        (c"errors-ill", queue.errors_ill.into()),
        (c"errors-abt", queue.errors_abt.into()),
        (c"errors-atc-inv-sync", queue.errors_atc_inv_sync.into()),
    ])
}

fn host(host: &HostCounters) -> Value {
    let sizes = host.sizes.into_iter().map(Value::from).collect();
    Value::Struct(vec![
        (c"calls", host.calls.into()),
        (c"commands", host.commands.into()),
        (c"time-ns", host.time_ns.into()),
        (c"longest-ns", host.longest_ns.into()),
        (c"sizes", Value::List(sizes)),
        (c"retries", host.retries.into()),
        (c"bisections", host.bisections.into()),
        (c"eio", host.eio.into()),
        (c"enomem", host.enomem.into()),
        (c"etimedout", host.etimedout.into()),
        (c"eintr", host.eintr.into()),
        (c"other", host.other.into()),
    ])
}

fn attach(attach: &AttachCounters) -> Value {
    Value::Struct(vec![
        (c"adopted", attach.adopted.into()),
        (c"stage1", attach.stage1.into()),
        (c"bypass", attach.bypass.into()),
        (c"abort", attach.abort.into()),
        (c"unchanged", attach.unchanged.into()),
        (c"refused", attach.refused.into()),
        (c"blocked", attach.blocked.into()),
        (c"hwpts", attach.hwpts.into()),
        (c"vdevices", attach.vdevices.into()),
        (c"veventqs", attach.veventqs.into()),
        (c"invalidations", attach.invalidations.into()),
        (c"quarantines", attach.quarantines.into()),
        (c"failed-closed", attach.failed_closed.into()),
        (c"host-lost", attach.host_lost.into()),
        (c"host-recovered", attach.host_recovered.into()),
    ])
}

fn events(events: &EventCounters) -> Value {
    Value::Struct(vec![
        (c"from-host", events.from_host.into()),
        (c"lost-by-host", events.lost_by_host.into()),
        (c"recorded", events.recorded.into()),
        (c"lost-queue-full", events.lost_queue_full.into()),
        (c"lost-pending", events.lost_pending.into()),
        (c"dropped", events.dropped.into()),
        (c"aborted", events.aborted.into()),
        (c"interrupts", events.interrupts.into()),
    ])
}

fn translations(statistics: &Statistics, notifications: u64) -> Value {
    let (configurations, translations) = (statistics.configurations, statistics.translations);
    Value::Struct(vec![
        (c"config-hits", configurations.hits.into()),
        (c"config-misses", configurations.misses.into()),
        (c"tlb-hits", translations.hits.into()),
        (c"tlb-misses", translations.misses.into()),
        (c"walks", statistics.walks.into()),
        (c"retries", statistics.retries.into()),
        (c"notifications", notifications.into()),
    ])
}

/// Returns the property `streams`.
pub fn streams(streams: Vec<StreamStatus>) -> Value {
    Value::List(streams.into_iter().map(stream).collect())
}

fn stream(stream: StreamStatus) -> Value {
    let mut members = vec![
        (c"stream-id", stream.stream_id.into()),
        (c"device", stream.device.into()),
        (c"host-device-id", stream.host_device_id.into()),
        (c"translation", stream.translation.to_owned().into()),
        (c"quarantined", stream.is_quarantined.into()),
        (c"vdevice", stream.has_vdevice.into()),
    ];
    if let Some(words) = stream.ste {
        let words = words.into_iter().map(Value::from).collect();
        members.push((c"ste", Value::List(words)));
    }
    Value::Struct(members)
}

/// Returns the property `id-registers`. `is_resolved`: no property is `auto` any more.
pub fn id_registers(features: &Features, is_resolved: bool) -> Value {
    let [idr0, idr1, idr2, idr3, idr4, idr5] = features.idr;
    Value::Struct(vec![
        (c"idr0", idr0.into()),
        (c"idr1", idr1.into()),
        (c"idr2", idr2.into()),
        (c"idr3", idr3.into()),
        (c"idr4", idr4.into()),
        (c"idr5", idr5.into()),
        (c"iidr", features.iidr.into()),
        (c"aidr", features.aidr.into()),
        (c"ats", features.ats().into()),
        (c"ril", features.ril().into()),
        (c"cd2l", features.cd2l().into()),
        (c"vax", (features.vax() > 0).into()),
        (c"oas", features.oas_bits().into()),
        (c"ssidsize", u32::from(features.ssidsize()).into()),
        (c"resolved", is_resolved.into()),
    ])
}
