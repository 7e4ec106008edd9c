//! Frames that come and go without stopping the others.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tracer_protocol::{
    Refusal,
    frame::{Frame, FrameError, HEADER, Kind, parse_header},
};

/// Takes a frame of at most `limit` bytes. Its first byte may take `idle`, all the rest `rest`.
pub async fn read(
    input: &mut (impl AsyncReadExt + Unpin),
    limit: usize,
    idle: Duration,
    rest: Duration,
) -> Result<Frame, FrameError> {
    let mut header = [0; HEADER];
    let first = match timeout(idle, input.read(&mut header)).await {
        Ok(Ok(0)) | Err(_) => return Err(FrameError::Closed),
        Ok(first) => first?,
    };
    let rest_of_it = async {
        input.read_exact(&mut header[first..]).await?;
        let (kind, length) = parse_header(header)?;
        if length > limit {
            return Err(FrameError::TooLong(length as u32));
        }
        // Its pages take memory only when something comes.
        let mut body = vec![0; length];
        input.read_exact(&mut body).await?;
        Ok(Frame { kind, body })
    };
    match timeout(rest, rest_of_it).await {
        Ok(frame) => frame,
        Err(_) => Err(FrameError::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Sends a frame, in a time.
pub async fn write(
    out: &mut (impl AsyncWriteExt + Unpin),
    frame: &Frame,
    time: Duration,
) -> Result<(), FrameError> {
    match timeout(time, out.write_all(&frame.bytes())).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(FrameError::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// The bytes of a frame with a refusal.
pub fn refusal(refusal: &Refusal) -> Vec<u8> {
    Frame::message(Kind::Error, refusal).map_or_else(|_| Vec::new(), |frame| frame.bytes())
}
