// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The script that a test writes: the machine, and the failures to inject.
//!
//! A line is a word and fields `key=value`:
//!
//! * `smmu NAME [idr0=.. .. idr5=.. flags=.. iidr=.. aidr=.. kind=.. nesting=off
//!   ats=off refuses=OPCODE cmdqv=vintfs:3,vcmdqs:1,sids:4,version:1]`: an SMMU,
//!   which has everything else; a second line about it replaces the first. It
//!   has no CMDQ virtualization without `cmdqv`, which says how many VINTFs
//!   virtual machines can have, and log2 of the queues and the streams of each;
//!   `type:N` is the type that `GET_HW_INFO` reports, `page:N` the length that
//!   `VIOMMU_ALLOC` reports.
//! * `device NAME smmu=NAME sid=N [migration=stop-copy,p2p,precopy,dma-logging,size:N]`:
//!   without `migration` it cannot be migrated
//! * `contract unvalidated|validating|block-start`: which kernel's `IOMMU_HWPT_INVALIDATE`
//!   this is ([`Contract`])
//! * `fail OP [errno=NAME] [skip=N] [count=N] [device=NAME] [kind=KIND]
//!   [index=N] [entry_num=N] [issued=N] [delay_ms=N]`: the calls of OP that
//!   match, after the first `skip`, `count` times (default: for ever), are
//!   delayed, then fail with `errno` (default: succeed). `kind` is that of the
//!   object that the call creates or destroys, and `smmuv3` or `cmdqv` for
//!   `GET_HW_INFO`; `index` is that of a hardware queue which is allocated or
//!   destroyed. For `MIG_DEVICE_STATE`, `kind` is the state that the device is
//!   to have. `fail MMAP` is a mapping of an iommufd. `entry_num` is what an invalidation writes
//!   back, `issued` how many of its commands complete although it fails. `fail
//!   VEVENTQ_EMPTY`, without `errno`: reads of a virtual event queue return
//!   nothing, and leave it readable.
//! * `clear`: no more failures.
//! * `shared`, before the first process starts: the host is one of several processes, which are
//!   QEMUs with the same directory. All have the script's failures together.
//! * `latency us=N [count=N]`: the next `count` calls of `HWPT_INVALIDATE` (default: all) take N
//!   microseconds before they have an effect. Unlike with `delay_ms`, calls of other threads are
//!   handled meanwhile, and the vIOMMU is not destroyed (`EBUSY`).
//! * `log off`, `log on`: whether there are lines in the log.
//! * `lose NAME [errno=NAME]`: the iommufd or the device of this name is no more,
//!   which nothing undoes: no call on its file works (default: `ENODEV`), and
//!   such a device is attached to nothing.
//! * `recover NAME`, `recovered NAME`: the kernel resets a device and restores what it
//!   was attached to. In between the device is blocked, it can be detached, and
//!   attachments fail with `EBUSY`. Both take effect with the next call.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    cmdqv::Cmdqv, errno::Errno, invalidation::Contract, migration::Capabilities, smmu::Smmu,
};

/// A device of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLine {
    /// The SMMU that it is behind
    pub smmu: String,
    /// Its `StreamID` in the host
    pub sid: u32,
    /// Its migration, if it can be migrated
    pub migration: Option<Capabilities>,
}

/// The properties of a call that select a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances<'a> {
    /// The call's name
    pub operation: &'a str,
    /// The device that it is about
    pub device: Option<&'a str>,
    /// The kind of object that it is about
    pub kind: Option<&'a str>,
    /// The index of the hardware queue that it is about
    pub index: Option<u32>,
}

/// An injected failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// The errno of the call, or `None` if it succeeds
    pub errno: Option<Errno>,
    /// The `entry_num` that an invalidation writes back
    pub entry_num: Option<u32>,
    /// How many commands of an invalidation complete
    pub issued: u32,
    /// The delay of the call
    pub delay: Duration,
}

#[derive(Clone, Debug)]
struct Rule {
    /// Its number in the script, which is the same in each process
    number: u64,
    operation: String,
    device: Option<String>,
    kind: Option<String>,
    index: Option<u32>,
    skip: u64,
    count: u64,
    fault: Fault,
}

impl Rule {
    fn matches(&self, call: &Circumstances<'_>) -> bool {
        let fits = |wanted: &Option<String>, actual: Option<&str>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| Some(wanted) == actual)
        };
        self.operation == call.operation
            && fits(&self.device, call.device)
            && fits(&self.kind, call.kind)
            && self.index.is_none_or(|wanted| Some(wanted) == call.index)
    }
}

/// The script so far.
#[derive(Debug, Default)]
pub struct Script {
    source: Option<Source>,
    smmus: BTreeMap<String, Smmu>,
    devices: BTreeMap<String, DeviceLine>,
    contract: Contract,
    rules: Vec<Rule>,
    /// Number of the next rule
    next_rule: u64,
    /// How many calls have matched a rule, by its number. Calls after its last failure are not
    /// counted.
    matches: BTreeMap<u64, u64>,
    is_shared: bool,
    lost: BTreeMap<String, Errno>,
    recovering: BTreeSet<String>,
    latency: Duration,
    /// Number of calls that have it
    latency_count: u64,
    is_silent: bool,
}

/// The file that a test appends to.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
}

impl Script {
    /// Returns the script in `path`.
    pub fn at(path: &Path) -> Self {
        Self {
            source: Some(Source {
                path: path.to_owned(),
                file: None,
                offset: 0,
            }),
            ..Self::default()
        }
    }

    /// Returns the SMMU called `name`.
    pub fn smmu(&self, name: &str) -> Option<&Smmu> {
        self.smmus.get(name)
    }

    /// Returns the device called `name`.
    pub fn device(&self, name: &str) -> Option<&DeviceLine> {
        self.devices.get(name)
    }

    /// Returns the errno of calls on the file called `name`, if it is lost.
    pub fn loss_of(&self, name: &str) -> Option<Errno> {
        self.lost.get(name).copied()
    }

    /// Returns whether several processes use the host.
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Returns how often each rule has matched, for other processes.
    pub(crate) const fn matches(&self) -> &BTreeMap<u64, u64> {
        &self.matches
    }

    /// Takes over how often each rule has matched in all processes.
    pub(crate) fn set_matches(&mut self, matches: BTreeMap<u64, u64>) {
        self.matches = matches;
    }

    /// Returns the names of all lost files.
    pub fn lost(&self) -> impl Iterator<Item = &str> {
        self.lost.keys().map(String::as_str)
    }

    /// Returns whether the kernel is recovering the device called `name`. Until
    /// the recovery ends, the device is blocked and attachments are refused.
    pub fn is_recovering(&self, name: &str) -> bool {
        self.recovering.contains(name)
    }

    /// Returns for how long the next invalidation takes.
    pub const fn take_latency(&mut self) -> Duration {
        if self.latency_count == 0 {
            return Duration::ZERO;
        }
        self.latency_count -= 1;
        self.latency
    }

    /// Returns whether the log is off.
    pub const fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Returns the contract by which invalidations are reported.
    pub const fn contract(&self) -> Contract {
        self.contract
    }

    /// Applies the lines that were added since the last call.
    ///
    /// # Errors
    ///
    /// The lines with a syntax error.
    pub fn refresh(&mut self) -> Result<(), Vec<String>> {
        let lines = self
            .source
            .as_mut()
            .map(Source::new_lines)
            .unwrap_or_default();
        let bad: Vec<String> = lines
            .lines()
            .filter(|line| self.apply(line).is_none())
            .map(str::to_owned)
            .collect();
        if bad.is_empty() {
            Ok(())
        } else {
            Err(bad)
        }
    }

    /// Applies a line; returns `None` if it has a syntax error.
    pub fn apply(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        let Some(verb) = words.next() else {
            return Some(());
        };
        let subject = words.next();
        if verb == "latency" {
            return self.set_latency(subject.into_iter().chain(words));
        }
        let fields = words
            .map(|word| word.split_once('='))
            .collect::<Option<BTreeMap<_, _>>>()?;
        let fields = Fields(fields);
        match (verb, subject) {
            ("#", _) => {}
            ("clear", None) => self.rules.clear(),
            ("shared", None) => self.is_shared = true,
            ("log", Some("off")) if fields.0.is_empty() => self.is_silent = true,
            ("log", Some("on")) if fields.0.is_empty() => self.is_silent = false,
            ("contract", Some(name)) => self.contract = Contract::named(name)?,
            ("smmu", Some(name)) => {
                let smmu = fields.smmu(name)?;
                self.smmus.insert(smmu.name.clone(), smmu);
            }
            ("device", Some(name)) => {
                let smmu = fields.0.get("smmu")?.to_string();
                let sid = u32::try_from(fields.number("sid")??).ok()?;
                let migration = match fields.0.get("migration") {
                    Some(text) => Some(Capabilities::parse(text)?),
                    None => None,
                };
                let device = DeviceLine {
                    smmu,
                    sid,
                    migration,
                };
                self.devices.insert(name.to_owned(), device);
            }
            ("fail", Some(operation)) => {
                let rule = fields.rule(self.next_rule, operation)?;
                self.next_rule += 1;
                self.rules.push(rule);
            }
            ("lose", Some(name)) => {
                fields.knows_only(&["errno"])?;
                let errno = fields.errno()?.unwrap_or(Errno::ENODEV);
                self.lost.insert(name.to_owned(), errno);
            }
            ("recover", Some(name)) if fields.0.is_empty() => {
                self.recovering.insert(name.to_owned());
            }
            ("recovered", Some(name)) if fields.0.is_empty() => {
                self.recovering.remove(name);
            }
            _ => return None,
        }
        Some(())
    }

    fn set_latency<'a>(&mut self, words: impl Iterator<Item = &'a str>) -> Option<()> {
        let fields = words
            .map(|word| word.split_once('='))
            .collect::<Option<BTreeMap<_, _>>>()?;
        let fields = Fields(fields);
        fields.knows_only(&["us", "count"])?;
        self.latency = Duration::from_micros(fields.number("us")??);
        self.latency_count = fields.number("count")?.unwrap_or(u64::MAX);
        Some(())
    }

    /// Returns the failure of a call, if there is one.
    pub fn take(&mut self, call: &Circumstances<'_>) -> Option<Fault> {
        for rule in self.rules.iter().filter(|rule| rule.matches(call)) {
            let matches = self.matches.entry(rule.number).or_default();
            match matches.checked_sub(rule.skip) {
                None => *matches += 1,
                Some(failed) if failed < rule.count => {
                    *matches += 1;
                    return Some(rule.fault);
                }
                Some(_) => {}
            }
        }
        None
    }
}

impl Source {
    /// Returns the text that was added, up to the last complete line.
    fn new_lines(&mut self) -> String {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let mut bytes = Vec::new();
        if let Some(file) = &self.file {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = file.read_at(&mut buffer, self.offset + bytes.len() as u64)
            {
                bytes.extend_from_slice(&buffer[..count]);
            }
        }
        let complete = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        bytes.truncate(complete);
        self.offset += complete as u64;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The fields of a line.
struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl Fields<'_> {
    /// Returns the number in a field: the inner `None` if there is no such
    /// field, the outer one if it is no number.
    #[allow(clippy::option_option)]
    fn number(&self, key: &str) -> Option<Option<u64>> {
        let Some(text) = self.0.get(key) else {
            return Some(None);
        };
        let value = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        value.ok().map(Some)
    }

    /// Returns the error of a line, as [`number`](Self::number).
    #[allow(clippy::option_option)]
    fn errno(&self) -> Option<Option<Errno>> {
        match self.0.get("errno") {
            Some(name) => Errno::named(name).map(Some),
            None => Some(None),
        }
    }

    fn word(&self, key: &str, default: u32) -> Option<u32> {
        match self.number(key)? {
            Some(value) => u32::try_from(value).ok(),
            None => Some(default),
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).map(|text| (*text).to_owned())
    }

    fn knows_only(&self, keys: &[&str]) -> Option<()> {
        self.0.keys().all(|key| keys.contains(key)).then_some(())
    }

    fn smmu(&self, name: &str) -> Option<Smmu> {
        self.knows_only(&[
            "idr0", "idr1", "idr2", "idr3", "idr4", "idr5", "kind", "flags", "iidr", "aidr",
            "nesting", "ats", "refuses", "cmdqv",
        ])?;
        let mut smmu = Smmu::new(name);
        for (index, register) in smmu.idr.iter_mut().enumerate() {
            *register = self.word(&format!("idr{index}"), *register)?;
        }
        smmu.kind = self.word("kind", smmu.kind)?;
        smmu.flags = self.word("flags", smmu.flags)?;
        smmu.iidr = self.word("iidr", smmu.iidr)?;
        smmu.aidr = self.word("aidr", smmu.aidr)?;
        smmu.nesting = self.0.get("nesting") != Some(&"off");
        smmu.ats = self.0.get("ats") != Some(&"off");
        if let Some(opcode) = self.number("refuses")? {
            smmu.refuses = Some(u32::try_from(opcode).ok()?);
        }
        if let Some(text) = self.0.get("cmdqv") {
            smmu.cmdqv = Some(Cmdqv::parse(text)?);
        }
        Some(smmu)
    }

    fn rule(&self, number: u64, operation: &str) -> Option<Rule> {
        self.knows_only(&[
            "errno",
            "skip",
            "count",
            "device",
            "kind",
            "index",
            "entry_num",
            "issued",
            "delay_ms",
        ])?;
        let errno = self.errno()?;
        let optional = |key| match self.number(key)? {
            Some(value) => u32::try_from(value).ok().map(Some),
            None => Some(None),
        };
        let entry_num = optional("entry_num")?;
        Some(Rule {
            number,
            operation: operation.to_owned(),
            device: self.text("device"),
            kind: self.text("kind"),
            index: optional("index")?,
            skip: self.number("skip")?.unwrap_or(0),
            count: self.number("count")?.unwrap_or(u64::MAX),
            fault: Fault {
                errno,
                entry_num,
                issued: self.word("issued", 0)?,
                delay: Duration::from_millis(self.number("delay_ms")?.unwrap_or(0)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(lines: &[&str]) -> Script {
        let mut script = Script::default();
        for line in lines {
            assert_eq!(script.apply(line), Some(()), "{line}");
        }
        script
    }

    fn errno(script: &mut Script, operation: &str, device: &str, kind: &str) -> Option<Errno> {
        let call = Circumstances {
            operation,
            device: Some(device),
            kind: Some(kind),
            index: None,
        };
        script.take(&call).and_then(|fault| fault.errno)
    }

    #[test]
    fn script_describes_machine() {
        let script = script(&[
            "smmu a idr3=0x400 ats=off",
            "smmu b",
            "device d smmu=b sid=0x10",
        ]);
        let a = script.smmu("a").expect("it was described");
        assert_eq!((a.idr[3], a.ats, a.nesting), (0x400, false, true));
        assert_eq!(a.cmdqv, None);
        assert_eq!(a.idr[0], script.smmu("b").expect("so was it").idr[0]);
        let device = script.device("d").expect("it was described");
        assert_eq!((device.smmu.as_str(), device.sid), ("b", 0x10));
        assert_eq!(device.migration, None);
    }

    #[test]
    fn script_failure_honours_skip_and_count() {
        let mut script = script(&["fail ATTACH errno=EBUSY device=d kind=abort skip=1 count=2"]);
        assert_eq!(errno(&mut script, "ATTACH", "e", "abort"), None);
        assert_eq!(errno(&mut script, "ATTACH", "d", "s2"), None);
        let results: Vec<_> = (0..4)
            .map(|_| errno(&mut script, "ATTACH", "d", "abort"))
            .collect();
        assert_eq!(
            results,
            [None, Some(Errno::EBUSY), Some(Errno::EBUSY), None]
        );
        script.apply("fail ATTACH errno=EIO").expect("a good line");
        assert_eq!(errno(&mut script, "ATTACH", "e", "s2"), Some(Errno::EIO));
        script.apply("clear").expect("a good line");
        assert_eq!(errno(&mut script, "ATTACH", "e", "s2"), None);
    }

    /// Each process reads the script from its beginning.
    #[test]
    fn script_failure_is_counted_in_all_processes() {
        let lines = [
            "shared",
            "fail ATTACH errno=EIO",
            "clear",
            "fail ATTACH errno=EBUSY skip=1 count=2",
        ];
        let mut processes = [script(&lines), script(&lines)];
        assert!(processes.iter().all(Script::is_shared));
        let mut results = Vec::new();
        for turn in [0, 1, 0, 1] {
            results.push(errno(&mut processes[turn], "ATTACH", "d", "s2"));
            let matches = processes[turn].matches().clone();
            processes[1 - turn].set_matches(matches);
        }
        let busy = Some(Errno::EBUSY);
        assert_eq!(results, [None, busy, busy, None]);
    }

    #[test]
    fn script_latency_ends_after_its_count() {
        let mut script = script(&["latency us=50 count=2", "log off"]);
        let taken: Vec<_> = (0..3).map(|_| script.take_latency()).collect();
        let some = Duration::from_micros(50);
        assert_eq!(taken, [some, some, Duration::ZERO]);
        assert!(script.is_silent());
        assert_eq!(script.apply("latency count=2"), None);
        script.apply("latency us=7").expect("a good line");
        assert_eq!(script.take_latency(), Duration::from_micros(7));
        script.apply("log on").expect("a good line");
        assert!(!script.is_silent());
    }

    #[test]
    fn script_failure_selects_queue_by_index() {
        let mut script = script(&["fail HW_QUEUE_ALLOC errno=EFAULT index=1"]);
        let call = |index| Circumstances {
            operation: "HW_QUEUE_ALLOC",
            index,
            ..Circumstances::default()
        };
        assert_eq!(script.take(&call(Some(0))), None);
        assert_eq!(script.take(&call(None)), None);
        let fault = script.take(&call(Some(1))).expect("a failure");
        assert_eq!(fault.errno, Some(Errno::EFAULT));
    }

    #[test]
    fn script_lose_is_permanent() {
        let mut script = script(&["lose d0", "lose iommufd0 errno=EBADF", "clear"]);
        assert_eq!(script.loss_of("d0"), Some(Errno::ENODEV));
        assert_eq!(script.loss_of("iommufd0"), Some(Errno::EBADF));
        assert_eq!(script.loss_of("d1"), None);
        script.apply("lose d1").expect("a good line");
        assert_eq!(script.lost().collect::<Vec<_>>(), ["d0", "d1", "iommufd0"]);
    }

    #[test]
    fn script_syntax_error_is_refused() {
        for line in [
            "frob",
            "fail",
            "fail X errno=EWHAT",
            "fail X count=many",
            "fail X colour=red",
            "smmu a idr0=0x100000000",
            "smmu a cmdqv=on",
            "fail HW_QUEUE_ALLOC index=first",
            "device d sid=1",
            "device d smmu=a sid=1 migration=p2p",
            "contract verbal",
            "clear now",
            "shared host",
            "lose",
            "lose d0 errno=EWHAT",
            "lose d0 count=1",
            "recover",
            "recovered",
            "recover d0 errno=EBUSY",
        ] {
            assert_eq!(Script::default().apply(line), None, "{line}");
        }
    }
}
