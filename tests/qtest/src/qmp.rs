// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The QEMU Machine Protocol: commands, their results, and events.

use std::{collections::VecDeque, fmt, io};

use serde_json::{json, Value};

use crate::line::LineStream;

/// QEMU's reply to a command that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpError {
    /// The class, such as `GenericError`
    pub class: String,
    /// The message
    pub description: String,
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.description)
    }
}

/// A connection.
pub struct Qmp {
    stream: LineStream,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Waits for the greeting and leaves negotiation mode.
    ///
    /// # Errors
    ///
    /// The connection is closed or silent.
    pub(crate) fn connect(stream: LineStream) -> io::Result<Self> {
        let mut qmp = Self {
            stream,
            events: VecDeque::new(),
        };
        qmp.receive()?;
        qmp.execute("qmp_capabilities", &json!({}))?
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(qmp)
    }

    /// Executes a command.
    ///
    /// # Errors
    ///
    /// The outer one: the connection is closed or silent. The inner one: the
    /// command has failed.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: &Value,
    ) -> io::Result<Result<Value, QmpError>> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.send(&request.to_string())?;
        loop {
            let mut answer = self.receive()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(Ok(result.take()));
            } else if let Some(error) = answer.get("error") {
                return Ok(Err(QmpError {
                    class: text(error, "class"),
                    description: text(error, "desc"),
                }));
            }
            self.events.push_back(answer);
        }
    }

    /// Returns the next event called `name`. Those before it are dropped.
    ///
    /// # Errors
    ///
    /// The connection is broken, or there is no such event for
    /// [`TIMEOUT`](crate::TIMEOUT).
    pub fn wait_event(&mut self, name: &str) -> io::Result<Value> {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.receive()?,
            };
            if event["event"] == name {
                return Ok(event);
            }
        }
    }

    /// Returns the events that were sent so far, and drops them.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub fn take_events(&mut self) -> io::Result<Vec<Value>> {
        // a reply comes after all earlier events
        let _ = self.execute("query-status", &json!({}))?;
        Ok(self.events.drain(..).collect())
    }

    fn receive(&mut self) -> io::Result<Value> {
        let line = self.stream.receive()?;
        serde_json::from_str(&line).map_err(Into::into)
    }
}

fn text(object: &Value, key: &str) -> String {
    object[key].as_str().unwrap_or_default().to_owned()
}
