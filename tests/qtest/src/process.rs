// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! QEMU as a process: its command line, inherited descriptors and exit status.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fmt, io,
    io::Read,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    binary::{is_debugged, sanitizer, traced},
    line::LineStream,
    qmp::Qmp,
    qtest::Qtest,
    wait::TIMEOUT,
    Machine,
};

/// Shell code that waits for a debugger before it becomes QEMU.
const WAIT_FOR_DEBUGGER: &str = r#"
    until grep -q 'TracerPid:.[1-9]' /proc/$$/status; do sleep 0.1; done
    exec "$0" "$@"
"#;

/// A QEMU that has not been started yet.
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    preloaded: Vec<OsString>,
    inherited: Vec<OwnedFd>,
}

impl Builder {
    /// Returns a command line of `binary` without display and default devices.
    pub fn new(binary: impl AsRef<Path>) -> Self {
        Self {
            binary: binary.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            preloaded: Vec::new(),
            inherited: Vec::new(),
        }
        .args(["-display", "none", "-nodefaults"])
    }

    /// Returns a `virt` machine whose CPUs do not run: the test is the only
    /// initiator. It has firmware (an empty one) and the bridge `pcie.1` with
    /// its own root bus number 8, for an SMMU to serve.
    pub fn virt(binary: impl AsRef<Path>) -> Self {
        Self::virt_with(binary, "")
    }

    /// Returns a `virt` machine with machine options, such as `"iommu=smmuv3"`.
    pub fn virt_with(binary: impl AsRef<Path>, options: &str) -> Self {
        let mut machine = String::from("virt,accel=qtest");
        for option in options.split(',').filter(|option| !option.is_empty()) {
            machine.push(',');
            machine.push_str(option);
        }
        Self::new(binary)
            .args(["-machine", &machine, "-bios", "/dev/null"])
            .device("pxb-pcie,id=pcie.1,bus_nr=8,bus=pcie.0")
    }

    /// Appends `-device` with an `arm-smmuv3` that serves `pcie.1`: id
    /// `smmuv3.1`, [`crate::smmu::PATH`] in QOM. `options` as for `-device`.
    #[must_use]
    pub fn smmu(self, options: &str) -> Self {
        let comma = if options.is_empty() { "" } else { "," };
        self.device(format!(
            "arm-smmuv3,id=smmuv3.1,primary-bus=pcie.1{comma}{options}"
        ))
    }

    /// Appends `-device` with `device`.
    #[must_use]
    pub fn device(self, device: impl AsRef<OsStr>) -> Self {
        self.arg("-device").arg(device)
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    /// Adds a library to `LD_PRELOAD`.
    #[must_use]
    pub fn preload(mut self, library: impl AsRef<OsStr>) -> Self {
        self.preloaded.push(library.as_ref().to_owned());
        self
    }

    /// Sets a variable of QEMU's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Lets QEMU inherit `fd` under the number that is returned. The test's
    /// copy is closed when QEMU has been started.
    pub fn fd(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        number
    }

    /// Starts QEMU with a qtest and a QMP connection.
    ///
    /// # Panics
    ///
    /// If QEMU does not start; the message has the command line and QEMU's
    /// standard error.
    #[track_caller]
    pub fn start(self) -> Machine {
        match self.try_start() {
            Ok(machine) => machine,
            Err(finished) => panic!("QEMU did not start\n{finished}"),
        }
    }

    /// Starts QEMU, which may end before it answers on QMP.
    ///
    /// # Errors
    ///
    /// The exit of a QEMU process.
    ///
    /// # Panics
    ///
    /// If QEMU cannot be run, or neither answers nor ends.
    pub fn try_start(self) -> Result<Machine, Box<Finished>> {
        self.try_start_with(|| ())
    }

    /// Starts QEMU, and calls `prompt`, without which it does not answer on QMP.
    ///
    /// # Errors
    ///
    /// The exit of a QEMU process.
    ///
    /// # Panics
    ///
    /// If QEMU cannot be run, or neither answers nor ends.
    pub fn try_start_with(mut self, prompt: impl FnOnce()) -> Result<Machine, Box<Finished>> {
        let qtest_socket = self.socket("qtest");
        let qmp_socket = self.socket("qmp");
        let process = self
            .args(["-qtest", "chardev:qtest", "-qtest-log", "none"])
            .args(["-qmp", "chardev:qmp"])
            .spawn();
        prompt();
        let connected = || -> io::Result<_> {
            let qmp = Qmp::connect(LineStream::new(qmp_socket)?)?;
            Ok((Qtest::new(LineStream::new(qtest_socket)?), qmp))
        };
        match connected() {
            Ok((qtest, qmp)) => Ok(Machine::new(process, qtest, qmp)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("QEMU does not answer on QMP\n{process}")
            }
            Err(_) => Err(Box::new(process.finish())),
        }
    }

    /// Runs QEMU without any connection until it ends by itself.
    ///
    /// # Panics
    ///
    /// If QEMU cannot be run, or does not end within [`TIMEOUT`].
    #[track_caller]
    pub fn run(self) -> Finished {
        self.spawn().finish()
    }

    /// Adds a socket character device and returns the test's end of it.
    fn socket(&mut self, id: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let number = self.fd(theirs.into());
        self.arguments.push("-chardev".into());
        self.arguments
            .push(format!("socket,id={id},fd={number}").into());
        ours
    }

    fn spawn(self) -> Process {
        let mut command = if is_debugged() {
            let mut shell = Command::new("sh");
            shell.args(["-c", WAIT_FOR_DEBUGGER]).arg(&self.binary);
            shell
        } else {
            Command::new(&self.binary)
        };
        command
            .args(trace_options())
            .args(&self.arguments)
            .envs(preloading(self.preloaded))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let numbers: Vec<RawFd> = self.inherited.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: between fork and exec the closure makes async-signal-safe
        // calls only, and allocates nothing.
        unsafe {
            command.pre_exec(move || prepare_child(&numbers));
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{}: {error}", self.binary.display()),
        };
        if is_debugged() {
            let pid = child.id();
            eprintln!("QEMU waits for a debugger: gdb -p {pid} -ex 'catch exec' -ex continue");
        }
        Process {
            command_line: command_line(&self.binary, &self.arguments),
            stdout: Captured::of(child.stdout.take().expect("stdout is piped")),
            stderr: Captured::of(child.stderr.take().expect("stderr is piped")),
            child,
        }
    }
}

/// Returns the options for the trace events of `QEMU_TRACE`. They come first, so
/// that a test's own `-D` has precedence.
fn trace_options() -> Vec<OsString> {
    let patterns = traced();
    if patterns.is_empty() {
        return Vec::new();
    }
    // QEMU replaces %d by its process identifier
    let log = env::temp_dir().join("qemu-trace-%d.log");
    let mut options: Vec<OsString> = vec!["-D".into(), log.into()];
    for pattern in patterns {
        options.extend(["-trace".into(), pattern.into()]);
    }
    options
}

/// Returns the variables that preload `libraries`, after the runtime of
/// `AddressSanitizer`, which must be the first.
fn preloading(libraries: Vec<OsString>) -> BTreeMap<&'static str, OsString> {
    let mut variables = BTreeMap::new();
    let mut all = libraries;
    if let Some(runtime) = sanitizer() {
        all.insert(0, runtime);
        // QEMU frees nothing at exit, and probes allocations that are too large
        let options = "detect_leaks=0:allocator_may_return_null=1";
        variables.insert("ASAN_OPTIONS", options.into());
    }
    if !all.is_empty() {
        variables.insert("LD_PRELOAD", all.join(OsStr::new(":")));
    }
    variables
}

/// Keeps `numbers` open across exec, and has QEMU killed with the test.
fn prepare_child(numbers: &[RawFd]) -> io::Result<()> {
    for &number in numbers {
        // SAFETY: changes a flag of a file descriptor that this process owns.
        if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: takes no pointers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn command_line(binary: &Path, arguments: &[OsString]) -> String {
    let mut line = binary.display().to_string();
    for argument in arguments {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// The output of a pipe so far.
#[derive(Debug)]
struct Captured {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Captured {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Returns all of the text, after the other end was closed.
    fn complete(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.text()
    }
}

/// A QEMU that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    command_line: String,
    stdout: Captured,
    stderr: Captured,
}

impl Process {
    /// Returns QEMU's standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Returns the process identifier.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until QEMU has ended.
    ///
    /// # Panics
    ///
    /// If QEMU does not end within [`TIMEOUT`].
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if start.elapsed() < *TIMEOUT => thread::sleep(Duration::from_millis(2)),
                Ok(None) => panic!("QEMU did not end within {:?}\n{self}", *TIMEOUT),
                Err(error) => panic!("QEMU's exit status cannot be had: {error}\n{self}"),
            }
        };
        Finished {
            status,
            stdout: self.stdout.complete(),
            stderr: self.stderr.complete(),
            command_line: std::mem::take(&mut self.command_line),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\n{}", self.command_line, self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // both fail only if it has ended and been waited for already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit of a QEMU process.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status
    pub status: ExitStatus,
    /// All of its standard output
    pub stdout: String,
    /// All of its standard error
    pub stderr: String,
    command_line: String,
}

impl Finished {
    /// Returns the lines of QEMU's standard error.
    pub fn error_lines(&self) -> Vec<&str> {
        self.stderr
            .lines()
            .filter(|line| !line.is_empty())
            .collect()
    }

    /// Returns the standard output of a QEMU that succeeded.
    ///
    /// # Panics
    ///
    /// If QEMU failed.
    #[track_caller]
    pub fn output(&self) -> &str {
        assert!(self.status.success(), "QEMU failed\n{self}");
        &self.stdout
    }

    /// Returns the one line with which QEMU refused to start: exit status 1, no
    /// signal.
    ///
    /// # Panics
    ///
    /// If QEMU started, was killed by a signal, or printed another number of
    /// lines than one.
    #[track_caller]
    pub fn refusal(&self) -> &str {
        assert_eq!(self.status.signal(), None, "QEMU ended by a signal\n{self}");
        assert_eq!(self.status.code(), Some(1), "QEMU's exit status\n{self}");
        match self.error_lines().as_slice() {
            [line] => line,
            lines => panic!("one line was expected, not {}\n{self}", lines.len()),
        }
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {}", self.command_line)?;
        writeln!(f, "{}", self.status)?;
        write!(f, "{}", self.stderr)
    }
}
