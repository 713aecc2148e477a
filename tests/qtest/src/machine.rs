// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A running QEMU with its two connections.

use std::{cell::RefCell, fs, io};

use serde_json::{json, Value};

use crate::{
    process::{Finished, Process},
    qmp::{Qmp, QmpError},
    qtest::{parse_number, Irq, Qtest},
};

/// Guest physical address of the RAM of a `virt` machine.
pub const RAM: u64 = 0x4000_0000;

/// A running QEMU.
///
/// All methods panic when QEMU has ended or does not answer; the message has
/// the command line and QEMU's standard error.
pub struct Machine {
    process: Process,
    qtest: RefCell<Qtest>,
    qmp: RefCell<Qmp>,
}

impl Machine {
    pub(crate) const fn new(process: Process, qtest: Qtest, qmp: Qmp) -> Self {
        Self {
            process,
            qtest: RefCell::new(qtest),
            qmp: RefCell::new(qmp),
        }
    }

    #[track_caller]
    fn connected<T>(&self, result: io::Result<T>) -> T {
        match result {
            Ok(value) => value,
            Err(error) => panic!("{error}\n{}", self.process),
        }
    }

    #[track_caller]
    fn qtest<T>(&self, function: impl FnOnce(&mut Qtest) -> io::Result<T>) -> T {
        let result = function(&mut self.qtest.borrow_mut());
        self.connected(result)
    }

    /// Reads 4 bytes with one access.
    #[track_caller]
    pub fn read32(&self, address: u64) -> u32 {
        self.qtest(|qtest| qtest.read_value(address, 4)) as u32
    }

    /// Reads 8 bytes with one access.
    #[track_caller]
    pub fn read64(&self, address: u64) -> u64 {
        self.qtest(|qtest| qtest.read_value(address, 8))
    }

    /// Writes 4 bytes with one access.
    #[track_caller]
    pub fn write32(&self, address: u64, value: u32) {
        self.qtest(|qtest| qtest.write_value(address, value.into(), 4));
    }

    /// Writes 8 bytes with one access.
    #[track_caller]
    pub fn write64(&self, address: u64, value: u64) {
        self.qtest(|qtest| qtest.write_value(address, value, 8));
    }

    /// Reads 1, 2, 4 or 8 bytes with one access.
    #[track_caller]
    pub fn read_sized(&self, address: u64, size: u32) -> u64 {
        self.qtest(|qtest| qtest.read_value(address, size))
    }

    /// Writes 1, 2, 4 or 8 bytes with one access.
    #[track_caller]
    pub fn write_sized(&self, address: u64, value: u64, size: u32) {
        self.qtest(|qtest| qtest.write_value(address, value, size));
    }

    /// Reads guest memory.
    #[track_caller]
    pub fn read_memory(&self, address: u64, size: usize) -> Vec<u8> {
        let mut buffer = vec![0; size];
        self.qtest(|qtest| qtest.read_memory(address, &mut buffer));
        buffer
    }

    /// Writes guest memory.
    #[track_caller]
    pub fn write_memory(&self, address: u64, bytes: &[u8]) {
        self.qtest(|qtest| qtest.write_memory(address, bytes));
    }

    /// Fills guest memory with a byte.
    #[track_caller]
    pub fn fill_memory(&self, address: u64, size: u64, byte: u8) {
        self.qtest(|qtest| qtest.request(&format!("memset {address:#x} {size:#x} {byte:#x}")));
    }

    /// Sends a request of the qtest protocol and returns what follows `OK`.
    #[track_caller]
    pub fn request(&self, request: &str) -> String {
        self.qtest(|qtest| qtest.request(request))
    }

    /// Writes 4 bytes to each address, then reads 4 bytes, in one batch: no
    /// bottom half of QEMU runs in between.
    #[track_caller]
    pub fn write32_then_read32(&self, writes: &[(u64, u32)], read: u64) -> u32 {
        self.qtest(|qtest| qtest.write_then_read(writes, read)) as u32
    }

    /// Sends requests of the qtest protocol in one batch and returns the number
    /// in each reply (0 if there is none).
    #[track_caller]
    pub fn requests(&self, requests: &[String]) -> Vec<u64> {
        let answers = self.qtest(|qtest| qtest.requests(requests));
        let number = |answer: &String| match answer.as_str() {
            "" => 0,
            number => self.connected(parse_number(number)),
        };
        answers.iter().map(number).collect()
    }

    /// Reports changes of the interrupt inputs of the device at `path` from now on.
    #[track_caller]
    pub fn intercept_inputs(&self, path: &str) {
        self.request(&format!("irq_intercept_in {path}"));
    }

    /// Reports changes of the outputs `name` of the device at `path` from now
    /// on; they are disconnected from their receivers.
    #[track_caller]
    pub fn intercept_outputs(&self, path: &str, name: &str) {
        self.request(&format!("irq_intercept_out {path} {name}"));
    }

    /// Returns the changes of intercepted lines since the last call.
    #[track_caller]
    pub fn take_irqs(&self) -> Vec<Irq> {
        self.qtest(|qtest| {
            // a reply comes after all lines about earlier events
            qtest.read_value(RAM, 1)?;
            Ok(qtest.take_irqs())
        })
    }

    /// Advances virtual time by nanoseconds.
    #[track_caller]
    pub fn clock_step(&self, nanoseconds: u64) {
        self.request(&format!("clock_step {nanoseconds}"));
    }

    /// Executes a QMP command that must succeed.
    #[track_caller]
    pub fn qmp(&self, command: &str, arguments: Value) -> Value {
        match self.try_qmp(command, arguments) {
            Ok(value) => value,
            Err(error) => panic!("{command}: {error}\n{}", self.process),
        }
    }

    /// Executes a QMP command.
    ///
    /// # Errors
    ///
    /// The error that QEMU returns.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value)] // json!({...}) at every call
    pub fn try_qmp(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let result = self.qmp.borrow_mut().execute(command, &arguments);
        self.connected(result)
    }

    /// Waits for a QMP event. Events before it are dropped.
    #[track_caller]
    pub fn wait_event(&self, name: &str) -> Value {
        let result = self.qmp.borrow_mut().wait_event(name);
        self.connected(result)
    }

    /// Returns the QMP events that were sent since the last call of this or of
    /// [`wait_event`](Self::wait_event).
    #[track_caller]
    pub fn take_events(&self) -> Vec<Value> {
        let result = self.qmp.borrow_mut().take_events();
        self.connected(result)
    }

    /// Executes a command of the human monitor and returns its output.
    #[track_caller]
    pub fn monitor(&self, command_line: &str) -> String {
        let output = self.qmp(
            "human-monitor-command",
            json!({ "command-line": command_line }),
        );
        output.as_str().unwrap_or_default().to_owned()
    }

    /// Returns a property of an object.
    #[track_caller]
    pub fn qom_get(&self, path: &str, property: &str) -> Value {
        self.qmp("qom-get", json!({ "path": path, "property": property }))
    }

    /// Returns the paths of the SMMUs with an ID that have statistics.
    #[track_caller]
    pub fn smmus(&self) -> Vec<String> {
        let children = |path: &str| {
            let listed = self.qmp("qom-list", json!({ "path": path }));
            listed.as_array().cloned().unwrap_or_default()
        };
        children("/machine/peripheral")
            .iter()
            .filter(|child| child["type"] == "child<arm-smmuv3>")
            .filter_map(|child| child["name"].as_str())
            .map(|name| format!("/machine/peripheral/{name}"))
            .filter(|path| {
                let properties = children(path);
                properties.iter().any(|entry| entry["name"] == "statistics")
            })
            .collect()
    }

    /// Resets the machine and waits until that is done.
    #[track_caller]
    pub fn system_reset(&self) {
        self.qmp("system_reset", json!({}));
        self.wait_event("RESET");
    }

    /// Returns the state of the machine, such as `running`.
    #[track_caller]
    pub fn status(&self) -> String {
        let status = self.qmp("query-status", json!({}));
        status["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns both connections, for use by two threads.
    pub fn connections(&mut self) -> (&mut Qtest, &mut Qmp) {
        (self.qtest.get_mut(), self.qmp.get_mut())
    }

    /// Returns QEMU's standard error so far.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Returns QEMU's process identifier.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Lets QEMU open no file more, or as many as before.
    #[track_caller]
    pub fn permit_files(&self, are_permitted: bool) {
        let files = format!("/proc/{}/fd", self.pid());
        let lowest_free = (0..).find(|fd| fs::symlink_metadata(format!("{files}/{fd}")).is_err());
        let pid = self.pid() as libc::pid_t;
        // SAFETY: valid pointers to a struct of integers
        let done = unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut limit);
            limit.rlim_cur = if are_permitted {
                limit.rlim_max
            } else {
                lowest_free.unwrap_or(0)
            };
            libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut())
        };
        assert_eq!(done, 0, "prlimit: {}", io::Error::last_os_error());
    }

    /// Ends QEMU through QMP.
    #[track_caller]
    pub fn quit(self) -> Finished {
        self.qmp("quit", json!({}));
        self.process.finish()
    }
}
