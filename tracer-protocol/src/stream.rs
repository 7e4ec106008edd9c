//! An answer as a stream of bytes, cut into data frames.

use std::io::{self, Read, Write};

use crate::frame::{Frame, FrameError, Kind};
use crate::messages::{Answered, Refusal};

/// Bytes are collected up to so many before a frame is sent.
pub const PART: usize = 32 << 10;

/// Writes an answer.
pub struct Sender<W: Write> {
    out: W,
    part: Vec<u8>,
}

impl<W: Write> Sender<W> {
    /// Sends to `out`.
    pub fn new(out: W) -> Self {
        Self { out, part: Vec::with_capacity(PART) }
    }

    /// Ends the answer: it is whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self, answered: &Answered) -> Result<(), FrameError> {
        self.send()?;
        Frame::message(Kind::End, answered)?.write(&mut self.out)
    }

    /// Ends the answer: there is no more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn fail(mut self, refusal: &Refusal) -> Result<(), FrameError> {
        self.send()?;
        Frame::message(Kind::Error, refusal)?.write(&mut self.out)
    }

    fn send(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let frame = Frame { kind: Kind::Data, body: std::mem::take(&mut self.part) };
        self.out.write_all(&frame.bytes())?;
        self.part = frame.body;
        self.part.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sender<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.len() == PART {
            self.send()?;
        }
        let taken = bytes.len().min(PART - self.part.len());
        self.part.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.out.flush()
    }
}

/// Reads an answer.
pub struct Receiver<R: Read> {
    input: R,
    part: Vec<u8>,
    at: usize,
    ended: Option<Result<Answered, Refusal>>,
}

impl<R: Read> Receiver<R> {
    /// Receives from `input`.
    pub fn new(input: R) -> Self {
        Self { input, part: Vec::new(), at: 0, ended: None }
    }

    /// How the answer ended; what is left of it is thrown away.
    ///
    /// # Errors
    /// When the connection broke off before.
    pub fn end(mut self) -> Result<Result<Answered, Refusal>, FrameError> {
        loop {
            if let Some(ended) = self.ended {
                return Ok(ended);
            }
            self.next_part()?;
        }
    }

    fn next_part(&mut self) -> Result<(), FrameError> {
        let frame = Frame::read(&mut self.input)?;
        match frame.kind {
            Kind::Data => (self.part, self.at) = (frame.body, 0),
            Kind::End => self.ended = Some(Ok(frame.parse(Kind::End)?)),
            Kind::Error => self.ended = Some(Err(frame.parse(Kind::Error)?)),
            other => return Err(FrameError::Unexpected(other)),
        }
        Ok(())
    }
}

impl<R: Read> Read for Receiver<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.at == self.part.len() && self.ended.is_none() {
            self.next_part().map_err(io_error)?;
        }
        let taken = bytes.len().min(self.part.len() - self.at);
        bytes[..taken].copy_from_slice(&self.part[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

fn io_error(error: FrameError) -> io::Error {
    match error {
        FrameError::Io(error) => error,
        FrameError::Closed => io::ErrorKind::UnexpectedEof.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Reason;

    #[test]
    fn a_stream_is_cut_into_frames_and_put_together() {
        let bytes: Vec<u8> = (0..3 * PART + 5).map(|i| (i % 251) as u8).collect();
        let mut frames = Vec::new();
        let mut sender = Sender::new(&mut frames);
        for part in bytes.chunks(1_000) {
            sender.write_all(part).unwrap();
        }
        let answered = Answered { warnings: vec!["w".into()], report: Some(7.into()) };
        sender.end(&answered).unwrap();
        let mut receiver = Receiver::new(frames.as_slice());
        let mut got = Vec::new();
        receiver.read_to_end(&mut got).unwrap();
        assert!(got == bytes);
        assert_eq!(receiver.end().unwrap().unwrap(), answered);
    }

    #[test]
    fn an_answer_that_breaks_off_is_told_from_one_that_is_whole() {
        let refusal = Refusal::new(Reason::Failed, "no such column");
        let mut frames = Vec::new();
        let mut sender = Sender::new(&mut frames);
        sender.write_all(b"half").unwrap();
        sender.fail(&refusal).unwrap();
        let mut receiver = Receiver::new(frames.as_slice());
        let mut got = Vec::new();
        receiver.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"half");
        assert_eq!(receiver.end().unwrap().unwrap_err(), refusal);
        for cut in 0..frames.len() {
            let mut receiver = Receiver::new(&frames[..cut]);
            assert!(receiver.read_to_end(&mut Vec::new()).is_err(), "{cut}");
            assert!(Receiver::new(&frames[..cut]).end().is_err(), "{cut}");
        }
    }
}
