// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The qtest protocol: one line for a request, one line for a reply, and lines
//! about interrupts in between.

use std::{collections::VecDeque, io};

use crate::line::LineStream;

/// A change of an intercepted interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Irq {
    /// Number of the line
    pub line: u32,
    /// Whether it was raised
    pub raised: bool,
}

/// Maximum number of bytes in one transfer. QEMU scans a partial line again
/// with each piece that arrives, so long lines are slow.
const CHUNK: usize = 16 << 10;

/// A connection.
pub struct Qtest {
    stream: LineStream,
    irqs: VecDeque<Irq>,
}

impl Qtest {
    pub(crate) fn new(stream: LineStream) -> Self {
        Self {
            stream,
            irqs: VecDeque::new(),
        }
    }

    /// Sends a request and returns what follows `OK`.
    ///
    /// # Errors
    ///
    /// The connection is closed, or the reply is not `OK`.
    pub fn request(&mut self, request: &str) -> io::Result<String> {
        self.stream.send(request)?;
        self.answer(request)
    }

    /// Writes 4 bytes to each address, then reads 4 bytes, in one batch: no
    /// bottom half of QEMU's main loop runs in between.
    ///
    /// # Errors
    ///
    /// See [`request`](Self::request).
    pub fn write_then_read(&mut self, writes: &[(u64, u32)], read: u64) -> io::Result<u64> {
        let mut requests: Vec<String> = writes
            .iter()
            .map(|(address, value)| format!("writel {address:#x} {value:#x}"))
            .collect();
        requests.push(format!("readl {read:#x}"));
        let answers = self.requests(&requests)?;
        parse_number(answers.last().map_or("", String::as_str))
    }

    /// Sends requests in one batch, like
    /// [`write_then_read`](Self::write_then_read), and returns what follows
    /// each `OK`.
    ///
    /// # Errors
    ///
    /// See [`request`](Self::request).
    pub fn requests(&mut self, requests: &[String]) -> io::Result<Vec<String>> {
        self.stream.send(&requests.join("\n"))?;
        requests
            .iter()
            .map(|request| self.answer(request))
            .collect()
    }

    fn answer(&mut self, request: &str) -> io::Result<String> {
        loop {
            let line = self.stream.receive()?;
            if let Some(irq) = parse_irq(&line) {
                self.irqs.push_back(irq);
            } else if let Some(rest) = line.strip_prefix("OK") {
                return Ok(rest.trim_start().to_owned());
            } else {
                return Err(io::Error::other(format!("{request}: {line}")));
            }
        }
    }

    /// Reads 1, 2, 4 or 8 bytes with one access.
    ///
    /// # Errors
    ///
    /// See [`request`](Self::request).
    pub fn read_value(&mut self, address: u64, size: u32) -> io::Result<u64> {
        let answer = self.request(&format!("read{} {address:#x}", suffix(size)))?;
        parse_number(&answer)
    }

    /// Writes 1, 2, 4 or 8 bytes with one access.
    ///
    /// # Errors
    ///
    /// See [`request`](Self::request).
    pub fn write_value(&mut self, address: u64, value: u64, size: u32) -> io::Result<()> {
        let request = format!("write{} {address:#x} {value:#x}", suffix(size));
        self.request(&request).map(drop)
    }

    /// Reads memory.
    ///
    /// # Errors
    ///
    /// See [`request`](Self::request).
    pub fn read_memory(&mut self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = address;
        for chunk in buffer.chunks_mut(CHUNK) {
            let answer = self.request(&format!("read {at:#x} {:#x}", chunk.len()))?;
            decode_hex(&answer, chunk)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// Writes memory.
    ///
    /// # Errors
    ///
    /// See [`request`](Self::request).
    pub fn write_memory(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = address;
        for chunk in bytes.chunks(CHUNK) {
            let request = format!("write {at:#x} {:#x} 0x{}", chunk.len(), encode_hex(chunk));
            self.request(&request)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// Returns the changes of interrupt lines since the last call, with those
    /// that an earlier request has caused.
    pub fn take_irqs(&mut self) -> Vec<Irq> {
        self.irqs.drain(..).collect()
    }
}

fn suffix(size: u32) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        8 => 'q',
        _ => panic!("no access has {size} bytes"),
    }
}

fn parse_irq(text: &str) -> Option<Irq> {
    let mut words = text.strip_prefix("IRQ ")?.split(' ');
    let raised = words.next()? == "raise";
    let line = words.next()?.parse().ok()?;
    Some(Irq { line, raised })
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

fn digits(text: &str) -> io::Result<&str> {
    text.strip_prefix("0x").ok_or_else(|| invalid(text))
}

pub(crate) fn parse_number(text: &str) -> io::Result<u64> {
    u64::from_str_radix(digits(text)?, 16).map_err(|_| invalid(text))
}

fn decode_hex(text: &str, buffer: &mut [u8]) -> io::Result<()> {
    let pairs = digits(text)?.as_bytes().chunks_exact(2);
    if pairs.len() != buffer.len() {
        return Err(invalid(text));
    }
    for (byte, pair) in buffer.iter_mut().zip(pairs) {
        let pair = std::str::from_utf8(pair).map_err(|_| invalid(text))?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid(text))?;
    }
    Ok(())
}

fn encode_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qtest_hex_round_trips() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut back = vec![0; bytes.len()];
        decode_hex(&format!("0x{}", encode_hex(&bytes)), &mut back).expect("our own text");
        assert_eq!(back, bytes);
    }

    #[test]
    fn qtest_reply_of_wrong_length_is_refused() {
        assert!(decode_hex("0x0011", &mut [0; 1]).is_err());
        assert!(decode_hex("0011", &mut [0; 2]).is_err());
    }

    #[test]
    fn qtest_irq_lines_are_not_replies() {
        let irq = Irq {
            line: 3,
            raised: true,
        };
        assert_eq!(parse_irq("IRQ raise 3"), Some(irq));
        assert_eq!(parse_irq("OK 0x3"), None);
    }
}
