//! A client of `tracerd serve`, which blocks.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracer_store::{RowSink, why_denied};

use crate::frame::{Frame, FrameError, Kind};
use crate::messages::{Answered, Control, Hello, Question, Refusal, Reply, Request, ServerHello};
use crate::stream::Receiver;
use crate::{VERSION, rows};

/// How long the daemon may take for what is no question.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the daemon may take beyond the time limit of a question before it counts as hung.
const GRACE: Duration = Duration::from_secs(60);

/// What can go wrong. The text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens there.
    #[error(
        "no tracerd listens on {path}: start one with `tracerd serve`, or name its socket with --socket"
    )]
    NoDaemon {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot connect to {path}: {source}{}", denied(.path, .source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon is of another version.
    #[error(
        "tracerd ({theirs}) speaks version {protocol} of the protocol, and this program {VERSION}: \
             use programs of one version, and restart tracerd after an update"
    )]
    Version {
        /// Version of the daemon.
        theirs: String,
        /// Its version of the protocol.
        protocol: u32,
    },
    /// The daemon does not do it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke off.
    #[error("the connection to tracerd broke off: {0}; `systemctl status tracerd` may say why")]
    Broken(FrameError),
    /// The answer could not be written by the one who asked.
    #[error("cannot write the answer: {0}")]
    Output(#[source] io::Error),
}

fn denied(path: &Path, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => why_denied(path),
        _ => String::new(),
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        Self::Broken(error)
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    server: ServerHello,
}

impl Client {
    /// Connects, and says hello.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`] when none listens there, or when it wants nothing of this client.
    pub fn connect(socket: &Path, program: &str) -> Result<Self, ClientError> {
        let mut stream = UnixStream::connect(socket).map_err(|source| {
            use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
            let path = socket.to_owned();
            match source.kind() {
                NotFound | NotADirectory | ConnectionRefused => ClientError::NoDaemon { path },
                _ => ClientError::Connect { path, source },
            }
        })?;
        patience(&stream, CONTROL_TIMEOUT)?;
        let hello = Hello { protocol: VERSION, program: program.to_owned() };
        // A server that has no room says so and closes, whatever it is told.
        let said = Frame::message(Kind::Hello, &hello)?.write(&mut stream);
        let server: ServerHello = match answer(&mut stream, Kind::Hello) {
            Ok(frame) => frame.parse(Kind::Hello)?,
            Err(ClientError::Broken(_)) if said.is_err() => return Err(said.unwrap_err().into()),
            Err(error) => return Err(error),
        };
        if server.protocol != VERSION {
            return Err(ClientError::Version { theirs: server.version, protocol: server.protocol });
        }
        Ok(Self { stream, server })
    }

    /// What the server said of itself.
    pub fn server(&self) -> &ServerHello {
        &self.server
    }

    /// Lets the daemon do or tell something.
    ///
    /// # Errors
    /// When it does not, or the connection breaks off.
    pub fn control(&mut self, control: Control) -> Result<Reply, ClientError> {
        patience(&self.stream, CONTROL_TIMEOUT)?;
        Frame::message(Kind::Request, &Request::Control(control))?.write(&mut self.stream)?;
        Ok(answer(&mut self.stream, Kind::Reply)?.parse(Kind::Reply)?)
    }

    /// Runs one SQL statement and gives its rows to `sink`.
    ///
    /// # Errors
    /// When it fails, the connection breaks off, or `sink` does not take the rows.
    pub fn sql(
        &mut self,
        sql: &str,
        timeout: Duration,
        sink: &mut dyn RowSink,
    ) -> Result<Answered, ClientError> {
        let question = Question::Sql { sql: sql.to_owned() };
        self.ask(question, timeout, |answer| rows::read(answer, sink).map(|taken| taken.map(drop)))
    }

    /// Asks a question; `take` reads the answer.
    ///
    /// # Errors
    /// When there is no whole answer. The errors of `take` are: the outer one of reading, which tells less than how
    /// the answer ended; the inner one its own.
    pub fn ask<T>(
        &mut self,
        question: Question,
        timeout: Duration,
        take: impl FnOnce(&mut Receiver<&UnixStream>) -> io::Result<io::Result<T>>,
    ) -> Result<Answered, ClientError>
    where
        T: Sized,
    {
        let (_, answered) = self.ask_for(question, timeout, take)?;
        Ok(answered)
    }

    /// As [`Self::ask`], with what `take` made of the answer.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_for<T>(
        &mut self,
        question: Question,
        timeout: Duration,
        take: impl FnOnce(&mut Receiver<&UnixStream>) -> io::Result<io::Result<T>>,
    ) -> Result<(T, Answered), ClientError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        patience(&self.stream, timeout.saturating_add(GRACE))?;
        let request = Request::Ask { question, timeout_ms };
        Frame::message(Kind::Request, &request)?.write(&mut self.stream)?;
        let mut receiver = Receiver::new(&self.stream);
        let taken = match take(&mut receiver) {
            Ok(Err(error)) => return Err(ClientError::Output(error)),
            Ok(Ok(taken)) => Ok(taken),
            Err(error) => Err(error),
        };
        let ended = receiver.end()?;
        let answered = ended?;
        match taken {
            Ok(taken) => Ok((taken, answered)),
            Err(error) => Err(ClientError::Broken(FrameError::Io(error))),
        }
    }

    /// Asks a question whose answer is a file, and copies it to `out`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn copy(
        &mut self,
        question: Question,
        timeout: Duration,
        out: &mut dyn io::Write,
    ) -> Result<Answered, ClientError> {
        self.ask(question, timeout, |answer| {
            let mut part = vec![0; crate::stream::PART];
            loop {
                let length = answer.read(&mut part)?;
                if length == 0 {
                    return Ok(out.flush());
                }
                if let Err(error) = out.write_all(&part[..length]) {
                    return Ok(Err(error));
                }
            }
        })
    }
}

fn patience(stream: &UnixStream, time: Duration) -> Result<(), ClientError> {
    let set =
        stream.set_read_timeout(Some(time)).and_then(|()| stream.set_write_timeout(Some(time)));
    set.map_err(|error| ClientError::Broken(FrameError::Io(error)))
}

/// Takes a frame that is no part of a stream.
fn answer(stream: &mut UnixStream, kind: Kind) -> Result<Frame, ClientError> {
    let frame = Frame::read(stream)?;
    match frame.kind {
        Kind::Error => Err(frame.parse::<Refusal>(Kind::Error)?.into()),
        found if found == kind => Ok(frame),
        found => Err(FrameError::Unexpected(found).into()),
    }
}
