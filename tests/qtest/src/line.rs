// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A socket with lines of text in both directions, which both protocols are.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use crate::TIMEOUT;

pub struct LineStream {
    reader: BufReader<UnixStream>,
    partial: Vec<u8>,
}

impl LineStream {
    /// # Errors
    ///
    /// The time limit cannot be set.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(*TIMEOUT))?;
        stream.set_write_timeout(Some(*TIMEOUT))?;
        Ok(Self {
            reader: BufReader::new(stream),
            partial: Vec::new(),
        })
    }

    /// # Errors
    ///
    /// The peer has closed the socket or does not read.
    pub fn send(&mut self, line: &str) -> io::Result<()> {
        let mut text = String::with_capacity(line.len() + 1);
        text.push_str(line);
        text.push('\n');
        self.reader.get_mut().write_all(text.as_bytes())
    }

    /// Returns the next line without its end.
    ///
    /// # Errors
    ///
    /// The peer has closed the socket, or sent nothing for [`TIMEOUT`].
    pub fn receive(&mut self) -> io::Result<String> {
        self.reader.read_until(b'\n', &mut self.partial)?;
        if self.partial.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8(std::mem::take(&mut self.partial))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(line.trim_end_matches('\r').to_owned())
    }
}
