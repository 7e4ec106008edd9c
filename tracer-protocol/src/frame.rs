//! Frames: a kind (one byte), a length (four bytes, little-endian), and so many bytes.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes in front of what a frame carries.
pub const HEADER: usize = 5;

/// A frame carries at most so many bytes.
pub const LIMIT: u32 = 1 << 20;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Hello`](crate::Hello) of a client, [`ServerHello`](crate::ServerHello) of a server.
    Hello = b'H',
    /// [`Request`](crate::Request).
    Request = b'Q',
    /// [`Reply`](crate::Reply).
    Reply = b'R',
    /// A part of an answer.
    Data = b'D',
    /// [`Answered`](crate::Answered): the answer is whole.
    End = b'E',
    /// [`Refusal`](crate::Refusal), in place of an answer or of the rest of it.
    Error = b'X',
    /// From the server to a process that answers one question.
    Order = b'O',
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side has closed the connection between two frames.
    #[error("the connection is closed")]
    Closed,
    /// The other side speaks another language.
    #[error("not a frame: it begins with the byte {0:#04x}")]
    Kind(u8),
    /// Longer than [`LIMIT`].
    #[error("a frame of {0} bytes, more than {LIMIT}")]
    TooLong(u32),
    /// A frame that does not belong here.
    #[error("a frame of the kind {0:?} where another was due")]
    Unexpected(Kind),
    /// A message that cannot be understood.
    #[error("a message that cannot be understood: {0}")]
    Message(#[from] serde_json::Error),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The bytes.
    pub body: Vec<u8>,
}

/// The first bytes of a frame: its kind, and how many bytes follow.
///
/// # Errors
/// When it is no frame, or too long.
pub fn parse_header(header: [u8; HEADER]) -> Result<(Kind, usize), FrameError> {
    let [kind, length @ ..] = header;
    let kind = match kind {
        b'H' => Kind::Hello,
        b'Q' => Kind::Request,
        b'R' => Kind::Reply,
        b'D' => Kind::Data,
        b'E' => Kind::End,
        b'X' => Kind::Error,
        b'O' => Kind::Order,
        other => return Err(FrameError::Kind(other)),
    };
    let length = u32::from_le_bytes(length);
    if length > LIMIT {
        return Err(FrameError::TooLong(length));
    }
    Ok((kind, length as usize))
}

impl Frame {
    /// A frame with a message.
    ///
    /// # Errors
    /// When the message is longer than [`LIMIT`].
    pub fn message(kind: Kind, message: &impl Serialize) -> Result<Self, FrameError> {
        let body = serde_json::to_vec(message)?;
        match u32::try_from(body.len()) {
            Ok(length) if length <= LIMIT => Ok(Self { kind, body }),
            other => Err(FrameError::TooLong(other.unwrap_or(u32::MAX))),
        }
    }

    /// The message in it.
    ///
    /// # Errors
    /// When it is of another kind, or cannot be understood.
    pub fn parse<T: DeserializeOwned>(&self, kind: Kind) -> Result<T, FrameError> {
        if self.kind != kind {
            return Err(FrameError::Unexpected(self.kind));
        }
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// As it is sent. What is longer than [`LIMIT`] will not be taken by the other side.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.push(self.kind as u8);
        bytes.extend(length.to_le_bytes());
        bytes.extend(&self.body);
        bytes
    }

    /// Sends it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, out: &mut impl Write) -> Result<(), FrameError> {
        Ok(out.write_all(&self.bytes())?)
    }

    /// Takes the next one.
    ///
    /// # Errors
    /// When there is none, or something else.
    pub fn read(input: &mut impl Read) -> Result<Self, FrameError> {
        let mut header = [0; HEADER];
        let first = loop {
            match input.read(&mut header) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if first == 0 {
            return Err(FrameError::Closed);
        }
        input.read_exact(&mut header[first..])?;
        let (kind, length) = parse_header(header)?;
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        Ok(Self { kind, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let frames = [
            Frame { kind: Kind::Data, body: vec![0, 255, 7] },
            Frame { kind: Kind::End, body: Vec::new() },
            Frame::message(Kind::Hello, &"x").unwrap(),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        let mut input = bytes.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut input).unwrap(), *frame);
        }
        assert!(matches!(Frame::read(&mut input), Err(FrameError::Closed)));
        for cut in 1..frames[0].bytes().len() {
            let error = Frame::read(&mut &bytes[..cut]).unwrap_err();
            assert!(matches!(error, FrameError::Io(_)), "{cut}: {error}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_anything_is_reserved_for_it() {
        let kind = Frame::read(&mut &b"GET / HTTP/1.1\r\n"[..]);
        assert!(matches!(kind, Err(FrameError::Kind(b'G'))));
        let long = [b'Q', 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(Frame::read(&mut &long[..]), Err(FrameError::TooLong(u32::MAX))));
        let huge = "x".repeat(LIMIT as usize);
        assert!(matches!(Frame::message(Kind::Request, &huge), Err(FrameError::TooLong(_))));
        let reply = Frame { kind: Kind::Reply, body: b"1".to_vec() };
        assert!(matches!(reply.parse::<u8>(Kind::End), Err(FrameError::Unexpected(Kind::Reply))));
        assert!(matches!(reply.parse::<String>(Kind::Reply), Err(FrameError::Message(_))));
    }
}
