// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! `scripts/smmu-top` on a QEMU, and what it says when there is none.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{self, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;
use smmuv3_docs::project;
use smmuv3_qtest::{
    assigned::QUEUE,
    command::{SYNC, TLBI_NSNH_ALL},
    qemu, qemu_c, Builder, Machine, Smmu,
};

/// A path for a socket, which is deleted with the test.
struct Socket(PathBuf);

impl Socket {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("smmu-top-{}-{number}", process::id());
        Self(env::temp_dir().join(name))
    }

    /// Returns a machine whose second monitor is this socket.
    fn machine(&self, binary: &Path, options: Option<&str>) -> Machine {
        let monitor = format!("unix:{},server=on,wait=off", self.0.display());
        let builder = Builder::virt(binary).args(["-qmp", &monitor]);
        match options {
            Some(options) => builder.smmu(options).start(),
            None => builder.start(),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn command(socket: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(project().join("scripts/smmu-top"))
        .args(options)
        .arg(socket);
    command
}

fn top(socket: &Socket, options: &[&str]) -> Output {
    let output = command(&socket.0, options).output();
    output.expect("python3 runs")
}

/// Returns the line with which it ends.
#[track_caller]
fn error(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("error: "), "{text}");
    text
}

#[test]
fn smmu_top_once_shows_rates_as_json() {
    let socket = Socket::new();
    let machine = socket.machine(&qemu(), Some(""));
    let smmu = Smmu::find(&machine);
    smmu.setup_queue(QUEUE, 8);
    let mut child = command(&socket.0, &["--once", "--json", "--interval", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    // some of these come between the two readings, however slow the machine is
    let status = loop {
        smmu.submit(&[TLBI_NSNH_ALL, SYNC]);
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success());
    let output = child.wait_with_output().expect("output");
    let line: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    assert_eq!(line["path"], "/machine/peripheral/smmuv3.1");
    let difference = &line["difference"]["commands"];
    let consumed = difference["consumed"].as_u64().expect("a counter");
    assert!(consumed >= 2, "{line}");
    assert_eq!(difference["tlbi"], consumed / 2);
    let rate = line["commands-per-second"].as_f64().expect("a rate");
    let seconds = line["seconds"].as_f64().expect("a time");
    assert!((rate * seconds - consumed as f64).abs() < 0.01, "{line}");
    assert_eq!(line["calls-per-second"], 0.0);
    assert_eq!(line["mean-call-ns"], Value::Null);
    assert_eq!(line["streams"], serde_json::json!([]));
}

#[test]
fn smmu_top_once_prints_a_table() {
    let socket = Socket::new();
    let _machine = socket.machine(&qemu(), Some(""));
    let output = top(&socket, &["--once", "--interval", "0.1"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("/machine/peripheral/smmuv3.1"), "{text}");
    for name in ["commands/s", "ioctls/s", "events/s", "errors so far none"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "no control characters in a file");
}

#[test]
fn smmu_top_finds_smmu_of_the_machine() {
    let socket = Socket::new();
    let monitor = format!("unix:{},server=on,wait=off", socket.0.display());
    let _machine = Builder::virt_with(qemu(), "iommu=smmuv3")
        .args(["-qmp", &monitor])
        .start();
    let output = top(&socket, &["--once", "--json", "--interval", "0.1"]);
    let line: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    let path = line["path"].as_str().expect("a path");
    assert!(path.starts_with("/machine/unattached/"), "{path}");
}

#[test]
fn smmu_top_without_socket_says_how_to_get_one() {
    let socket = Socket::new();
    let text = error(&top(&socket, &["--once"]));
    assert!(text.contains("-qmp unix:"), "{text}");
}

#[test]
fn smmu_top_without_listener_says_so() {
    let socket = Socket::new();
    drop(UnixListener::bind(&socket.0).expect("a socket"));
    let text = error(&top(&socket, &["--once"]));
    assert!(text.contains("no QEMU listens"), "{text}");
}

#[test]
fn smmu_top_notices_that_qemu_has_ended() {
    let socket = Socket::new();
    let machine = socket.machine(&qemu(), Some(""));
    let mut child = command(&socket.0, &["--json", "--interval", "0.1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut first = String::new();
    let stdout = child.stdout.as_mut().expect("stdout is piped");
    BufReader::new(stdout)
        .read_line(&mut first)
        .expect("a line");
    machine.quit();
    let output = child.wait_with_output().expect("output");
    let text = error(&output);
    assert!(text.contains("QEMU has ended"), "{text}");
}

#[test]
fn smmu_top_of_c_device_says_what_is_missing() {
    let socket = Socket::new();
    let _machine = socket.machine(&qemu_c(), Some(""));
    let text = error(&top(&socket, &["--once"]));
    assert!(text.contains("has no statistics"), "{text}");
}

#[test]
fn smmu_top_without_smmu_says_so() {
    let socket = Socket::new();
    let _machine = socket.machine(&qemu(), None);
    let text = error(&top(&socket, &["--once"]));
    assert!(text.contains("has no arm-smmuv3"), "{text}");
}

#[test]
fn smmu_top_with_wrong_path_passes_the_error_on() {
    let socket = Socket::new();
    let _machine = socket.machine(&qemu(), Some(""));
    let text = error(&top(&socket, &["--once", "--path", "/machine/none"]));
    assert!(text.contains("/machine/none"), "{text}");
}
