// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration and snapshots: objects of the host are not in the stream. The registers and tables of the
//! guest say what each assigned device is to be attached to, and the host of the destination is asked
//! for that when they have been loaded.
//!
//! A host that lacks what the guest has seen, or refuses an attachment, fails the loading, so that
//! the guest goes on at the source. There it could otherwise have gone on, and here it would have a
//! device whose DMA is aborted.
//!
//! VFIO lets devices run when the machine starts, which is later: so no transaction is translated by
//! other tables than the guest's.

use std::sync::atomic::Ordering;

use smmuv3::{batch::FlushPolicy, features::Features};
use util::{ensure, Result};

use super::{
    host_caps::{self, HostInfo, When},
    saved::SavedFeatures,
    Accel, Devices, Stream,
};
use crate::{properties::SmmuProperties, state::GuestState};

impl Accel {
    /// Checks that all hosts have what the ID registers say that the guest has read at the source.
    ///
    /// # Errors
    ///
    /// A host lacks something, or the values are damaged.
    pub fn check_features(&self, saved: &SavedFeatures) -> Result<()> {
        let devices = self.devices.borrow();
        match devices.as_ref() {
            Some(devices) => devices.loadable(saved).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Shows the guest the ID registers that it has read at the source, if all hosts have what they
    /// say. `policy` is that for commands; returns the one to use from now on.
    ///
    /// A stream without ID registers is that of an SMMU with accel=off, the C device's for example.
    ///
    /// # Errors
    ///
    /// A host lacks something, or the values are damaged. Nothing has changed.
    pub fn load_features(
        &self,
        state: &GuestState,
        saved: &SavedFeatures,
        policy: FlushPolicy,
    ) -> Result<FlushPolicy> {
        let mut devices = self.devices.borrow_mut();
        let Some(devices) = devices.as_mut() else {
            return Ok(policy);
        };
        let (features, first_host) = devices.loadable(saved)?;
        let mut merge_ranges = policy.merge_ranges;
        if let (Some(viommu), Some(info)) = (&mut devices.viommu, &first_host) {
            // the guest may see ranges here that it has not seen when its first device came, or not
            if merge_ranges.is_some() == features.ril() {
                merge_ranges = viommu.granules_to_merge(&features, info);
            }
        }
        devices.resolved = true;
        state.lock().features = features;
        Ok(FlushPolicy {
            merge_ranges,
            ..policy
        })
    }

    /// Attaches every device as the loaded registers and tables say.
    ///
    /// An STE that is invalid or cannot be read is abort, and no failure: the guest has written it.
    ///
    /// # Errors
    ///
    /// The host refuses an attachment, for any reason.
    pub fn attach_loaded(&self, state: &GuestState) -> Result<()> {
        // No event is read and no command consumed before the machine starts: an interrupt
        // controller that is loaded later would lose the interrupt.
        self.is_stopped.store(true, Ordering::Relaxed);
        self.with_parts(|streams, viommu| {
            for stream in streams {
                stream.begin_load(viommu);
            }
            viommu.note_loaded_tables();
        });
        self.reattach_all(state);
        let mut devices = self.devices.borrow_mut();
        let Some(devices) = devices.as_mut() else {
            return Ok(());
        };
        devices.is_loaded = true;
        // all of them, because each must end
        let results: Vec<_> = devices.streams.iter_mut().map(Stream::end_load).collect();
        results.into_iter().collect()
    }

    /// Attaches every device again as registers and tables say, because the machine starts with a
    /// state that was loaded. This comes before VFIO lets devices run.
    ///
    /// What QEMU has loaded after the SMMU can make a difference: bus numbers of a bridge, or memory
    /// of a device that a table is in. A device without a difference is not touched.
    pub fn start_loaded(&self, state: &GuestState) {
        let is_loaded = |devices: &mut Devices| std::mem::take(&mut devices.is_loaded);
        if self.devices.borrow_mut().as_mut().is_some_and(is_loaded) {
            self.reattach_all(state);
        }
    }
}

impl Devices {
    /// Returns the ID registers of a saved state and the host of the first device, if every host has
    /// what they say.
    fn loadable(&self, saved: &SavedFeatures) -> Result<(Features, Option<HostInfo>)> {
        let smmu = &self.owner.name;
        let without_accel = || self.properties.features_without_accel();
        let features = saved.get().unwrap_or_else(without_accel);
        ensure!(
            SmmuProperties::can_show(&features),
            "{}: the migration stream is damaged: the ID registers have values that no device shows",
            smmu
        );
        let mut first = None;
        for stream in &self.streams {
            let info = HostInfo::of(stream.device())?;
            host_caps::check(smmu, &features, &info, When::Load)?;
            first.get_or_insert(info);
        }
        Ok((features, first))
    }
}
