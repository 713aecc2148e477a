// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The notation of the test vectors.

use crate::common::host::{self, Answer};

pub type Words = [u64; 2];

/// Commands that vectors call by name.
const COMMANDS: [(&str, Words); 12] = [
    ("reserved", [0x0, 0x0]),
    ("nh_all", [0x10, 0x0]),
    ("sync", [0x46, 0x0]),
    ("sync_irq", [0x1046, 0x0]),
    // TLBI_NH_VA of ASID 5, leaf.
    ("va1", [0x5_0000_0000_0012, 0x1001]),
    ("va2", [0x5_0000_0000_0012, 0x2001]),
    ("va3", [0x5_0000_0000_0012, 0x3001]),
    ("va4", [0x5_0000_0000_0012, 0x4001]),
    ("va7", [0x5_0000_0000_0012, 0x7001]),
    ("atc8", [0x8_0000_0040, 0x34]),
    ("cd8", [0x8_0000_0005, 0x1]),
    ("cds8", [0x8_0000_0006, 0x0]),
];

const ERRNOS: [(&str, i32); 12] = [
    ("ENOENT", host::ENOENT),
    ("EINTR", host::EINTR),
    ("EIO", host::EIO),
    ("E2BIG", host::E2BIG),
    ("EBADF", host::EBADF),
    ("EAGAIN", host::EAGAIN),
    ("ENOMEM", host::ENOMEM),
    ("EFAULT", host::EFAULT),
    ("EINVAL", host::EINVAL),
    ("ENOTTY", host::ENOTTY),
    ("EOPNOTSUPP", host::EOPNOTSUPP),
    ("ETIMEDOUT", host::ETIMEDOUT),
];

/// Registers that vectors call by name, with their size in bytes.
const REGISTERS: [(&str, u64, u32); 15] = [
    ("CR0", 0x20, 4),
    ("CR0ACK", 0x24, 4),
    ("CR1", 0x28, 4),
    ("GBPA", 0x44, 4),
    ("IRQ_CTRL", 0x50, 4),
    ("IRQ_CTRLACK", 0x54, 4),
    ("GERROR", 0x60, 4),
    ("GERRORN", 0x64, 4),
    ("GERROR_IRQ_CFG0", 0x68, 8),
    ("GERROR_IRQ_CFG1", 0x70, 4),
    ("STRTAB_BASE", 0x80, 8),
    ("STRTAB_BASE_CFG", 0x88, 4),
    ("CMDQ_BASE", 0x90, 8),
    ("CMDQ_PROD", 0x98, 4),
    ("CMDQ_CONS", 0x9c, 4),
];

#[derive(Debug)]
pub struct Vector<'a> {
    pub id: &'a str,
    pub steps: Vec<Step<'a>>,
}

#[derive(Debug)]
pub enum Step<'a> {
    Configure(Vec<(&'a str, Vec<u64>)>),
    Host { answers: Vec<Answer>, forever: bool },
    Gone,
    AbortReads(u64),
    AbortWrites(u64),
    Slot(u32, Vec<Words>),
    Memory(u64, Vec<Words>),
    Write(Register, u64),
    Read(Register, u64),
    Peek(u64, u32),
    Check(Checkpoint),
}

#[derive(Clone, Copy, Debug)]
pub struct Register {
    pub offset: u64,
    pub size: u32,
}

#[derive(Debug, Default)]
pub struct Checkpoint {
    pub rd: u32,
    pub err: Option<u32>,
    pub gerror: u32,
    pub gerrorn: u32,
    pub irq_g: u32,
    pub irq_s: u32,
    pub msi: Vec<(u64, u32)>,
    pub local: Vec<u32>,
    pub quarantine: Vec<u32>,
    pub calls: Vec<Vec<Words>>,
}

/// The IDs of all vectors of a file.
pub fn ids(file: &str) -> impl Iterator<Item = &str> {
    file.lines()
        .filter_map(|line| Some(line.strip_prefix("vector ")?.split_once(':')?.0))
}

/// The vector `id`, if the file has it.
pub fn find<'a>(file: &'a str, wanted: &str) -> Option<Vector<'a>> {
    let mut lines = file.lines().skip_while(|line| {
        let head = line.strip_prefix("vector ").and_then(|l| l.split_once(':'));
        head.map(|(found, _)| found) != Some(wanted)
    });
    let id = lines.next()?.strip_prefix("vector ")?.split_once(':')?.0;
    let mut steps = Vec::new();
    for line in lines.take_while(|line| !line.starts_with("vector ")) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(commands) = line.strip_prefix("call ") {
            let Some(Step::Check(checkpoint)) = steps.last_mut() else {
                panic!("{id}: a call belongs to a checkpoint: {line}");
            };
            checkpoint.calls.push(words(commands));
        } else {
            steps.push(step(line).unwrap_or_else(|| panic!("{id}: {line}")));
        }
    }
    Some(Vector { id, steps })
}

fn step(line: &str) -> Option<Step<'_>> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    Some(match verb {
        "cfg" => Step::Configure(pairs(rest)?),
        "host" => Step::Host {
            answers: rest
                .split_whitespace()
                .filter(|word| *word != "forever")
                .map(answer)
                .collect::<Option<_>>()?,
            forever: rest.ends_with(" forever"),
        },
        "gone" => Step::Gone,
        "abort_reads" => Step::AbortReads(number(rest)?),
        "abort_writes" => Step::AbortWrites(number(rest)?),
        "slot" => {
            let (index, commands) = rest.split_once(' ')?;
            Step::Slot(number(index)? as u32, words(commands))
        }
        "mem" => {
            let (address, commands) = rest.split_once(' ')?;
            Step::Memory(number(address)?, words(commands))
        }
        "write" | "read" => {
            let (name, value) = rest.split_once(' ')?;
            let (register, value) = (register(name)?, number(value)?);
            if verb == "write" {
                Step::Write(register, value)
            } else {
                Step::Read(register, value)
            }
        }
        "peek" => {
            let (address, value) = rest.split_once(' ')?;
            Step::Peek(number(address)?, number(value)? as u32)
        }
        "=>" => Step::Check(checkpoint(rest)?),
        _ => return None,
    })
}

fn checkpoint(text: &str) -> Option<Checkpoint> {
    let mut result = Checkpoint::default();
    for field in text.split_whitespace() {
        let (name, value) = field.split_once('=')?;
        let list =
            || -> Option<Vec<u32>> { value.split(',').map(|n| Some(number(n)? as u32)).collect() };
        match name {
            "RD" => result.rd = number(value)? as u32,
            "ERR" if value == "-" => result.err = None,
            "ERR" => result.err = Some(number(value)? as u32),
            "GERROR" => result.gerror = number(value)? as u32,
            "GERRORN" => result.gerrorn = number(value)? as u32,
            "irqG" => result.irq_g = number(value)? as u32,
            "irqS" => result.irq_s = number(value)? as u32,
            "local" => result.local = list()?,
            "quarantine" => result.quarantine = list()?,
            "msi" => {
                let (address, data) = value.split_once(':')?;
                result.msi.push((number(address)?, number(data)? as u32));
            }
            _ => return None,
        }
    }
    Some(result)
}

fn pairs(text: &str) -> Option<Vec<(&str, Vec<u64>)>> {
    let pair = |word: &'_ str| -> Option<Vec<u64>> { word.split(',').map(number).collect() };
    text.split_whitespace()
        .map(|word| {
            let (name, values) = word.split_once('=')?;
            Some((name, pair(values)?))
        })
        .collect()
}

fn answer(word: &str) -> Option<Answer> {
    if word == "done" {
        return Some(Answer::Done);
    }
    let (name, entry_num) = word.split_once(':')?;
    let (_, errno) = ERRNOS.iter().find(|(known, _)| *known == name)?;
    Some(Answer::error(*errno, number(entry_num)? as u32))
}

fn register(name: &str) -> Option<Register> {
    if let Some(offset) = number(name) {
        return Some(Register { offset, size: 4 });
    }
    let (_, offset, size) = *REGISTERS.iter().find(|(known, ..)| *known == name)?;
    Some(Register { offset, size })
}

fn words(text: &str) -> Vec<Words> {
    let mut result = Vec::new();
    for word in text.split_whitespace() {
        let (times, name) = match word.split_once('*') {
            Some((times, name)) => (number(times), name),
            None => (Some(1), word),
        };
        let command = command(name).unwrap_or_else(|| panic!("no command: {word}"));
        let times = times.unwrap_or_else(|| panic!("no number: {word}"));
        result.extend(std::iter::repeat_n(command, times as usize));
    }
    result
}

fn command(name: &str) -> Option<Words> {
    if let Some((word0, word1)) = name.split_once(',') {
        return Some([number(word0)?, number(word1)?]);
    }
    let (_, words) = COMMANDS.iter().find(|(known, _)| *known == name)?;
    Some(*words)
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
