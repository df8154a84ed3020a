//! One client of the console, from its welcome to its end.

use std::borrow::Cow;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pgwire::messages::startup::{Authentication, ParameterStatus};
use tokio::time::timeout;

use super::command::{self, Outcome};
use super::console::Console;
use super::fault::Fault;
use super::show::{Teller, Telling};
use super::visitor::Visitor;
use super::wait::Wait;
use crate::client::{Places, Socket};
use crate::net::{Channel, Received};
use crate::pool::{CONSOLE, Calm, CancelKey};
use crate::wire::frame::{HEADER_LEN, cstr};
use crate::wire::{Header, backend, frame, frontend};

/// The longest query taken, header included. PgBouncer takes what fits its
/// `pkt_buf`, which is 4 KiB unless set.
const MAX_QUERY_LEN: usize = 16 * 1024;

/// How often a waiting command looks whether it is done.
const WAIT_TICK: Duration = Duration::from_millis(20);

/// How long SHOW FDS, SHOW HANDOVER and SHOW BALANCER may take.
const TELL_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to give up what another process goes on with.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// How long a client may take to read its last message.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(1);

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The client has gone, or nothing can be sent to it.
    Left(&'static str),
    /// The client is told this.
    Fatal(Cow<'static, str>),
}

/// A client of the console.
pub struct Session {
    entry: Entry,
    channel: Channel,
}

/// A client's entries in the books, for as long as this lives.
struct Entry {
    console: Arc<Console>,
    visitor: Arc<Visitor>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.console.bouncer.consoles.remove(&self.visitor.key);
        self.console.visitors.remove(&self.visitor.id);
    }
}

impl Session {
    /// Enters a client that has logged in.
    pub fn begin(console: Arc<Console>, visitor: Visitor, channel: Channel) -> Session {
        let visitor = Arc::new(visitor);
        let consoles = &console.bouncer.consoles;
        consoles.insert(visitor.key, visitor.cancel.clone());
        console.visitors.insert(visitor.id, visitor.clone());
        Session {
            entry: Entry { console, visitor },
            channel,
        }
    }

    /// Serves it. `greeting` is what the login has left to say; `counted` are
    /// its places in the limits of clients.
    pub async fn run(mut self, greeting: Vec<u8>, counted: (Socket, Places)) {
        let end = self.converse(greeting).await;
        let Session { entry, mut channel } = self;
        entry.log_end(&end);
        let (console, visitor) = (entry.console.clone(), entry.visitor.clone());
        // Whoever killed it waits for this.
        drop(entry);
        console.resume_if_abandoned();
        if let End::Fatal(message) = end {
            report(&console, &visitor, &message);
            let mut fatal = BytesMut::new();
            backend::put_error(&mut fatal, "FATAL", backend::PROTOCOL_VIOLATION, &message);
            console.log.written().await;
            let sent = timeout(LAST_WORD_LIMIT, channel.close_with(&fatal)).await;
            if !matches!(sent, Ok(Ok(()))) {
                tracing::debug!("console client did not take its last message");
            }
        } else {
            channel.stream.write_end();
            // Whoever sees that the connection is closed may use the places.
            drop(counted);
        }
    }

    async fn converse(&mut self, greeting: Vec<u8>) -> End {
        let mut out = BytesMut::from(greeting.as_slice());
        put_welcome(&mut out, &self.entry.console, self.entry.visitor.key);
        let mut has_asked = false;
        loop {
            if let Err(end) = self.send(&mut out).await {
                return end;
            }
            let answered = match self.receive(&mut out).await {
                Ok(query) => {
                    if !std::mem::replace(&mut has_asked, true) {
                        self.entry.console.count_asked();
                    }
                    self.answer(&query, &mut out).await
                }
                Err(end) => Err(end),
            };
            if let Err(end) = answered {
                return match self.send(&mut out).await {
                    Ok(()) => end,
                    Err(end) => end,
                };
            }
        }
    }

    async fn send(&mut self, out: &mut BytesMut) -> Result<(), End> {
        self.entry.console.log.written().await;
        let limit = self.entry.console.limits.write;
        let sent = timeout(limit, self.channel.write_all(out)).await;
        // The answer may have been long; an idle client holds nothing.
        *out = BytesMut::new();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Left("client unexpected eof")),
            Err(_) => Err(End::Left("client does not read its answers")),
        }
    }

    /// Waits for the next query, for as long as the client likes.
    async fn receive(&mut self, out: &mut BytesMut) -> Result<String, End> {
        let visitor = self.entry.visitor.clone();
        tokio::select! {
            begun = self.channel.peek(1) => begun.map_err(|_| UNEXPECTED_EOF)?,
            () = visitor.dismissal.notified() => return Err(DISMISSED),
        };
        let limit = self.entry.console.limits.message;
        match timeout(limit, self.message(out)).await {
            Ok(received) => received,
            Err(_) => Err(fatal("incomplete pkt")),
        }
    }

    async fn message(&mut self, out: &mut BytesMut) -> Result<String, End> {
        let head = self.channel.peek(HEADER_LEN).await;
        let head = head.map_err(|_| UNEXPECTED_EOF)?;
        let header = match Header::read(head) {
            Some(Ok(header)) => header,
            _ => return Err(bad_header(head)),
        };
        match header.tag {
            frontend::QUERY if header.total() > MAX_QUERY_LEN => {
                return Err(fatal("incomplete pkt"));
            }
            frontend::QUERY => {}
            frontend::TERMINATE => return Err(End::Left("client close request")),
            tag => return Err(self.refuse(tag, out)),
        }
        let message = self.channel.read_message(MAX_QUERY_LEN).await;
        let message = message.map_err(|_| UNEXPECTED_EOF)?;
        match cstr(&message.body) {
            Some((query, _)) => Ok(String::from_utf8_lossy(query).into_owned()),
            None => Err(fatal("incomplete query")),
        }
    }

    /// Refuses a message that is no query: with an error first if clients may
    /// send it at all.
    fn refuse(&self, tag: u8, out: &mut BytesMut) -> End {
        let text = match tag {
            frontend::PARSE | frontend::BIND | frontend::EXECUTE => {
                "extended query protocol not supported by admin console".to_owned()
            }
            frontend::DESCRIBE
            | frontend::CLOSE
            | frontend::SYNC
            | frontend::FLUSH
            | frontend::FUNCTION_CALL
            | frontend::COPY_DATA
            | frontend::COPY_DONE
            | frontend::COPY_FAIL => format!("unsupported packet type for admin console: {tag}"),
            _ => return fatal("unknown pkt"),
        };
        self.put_fault(&Fault::from(text), out);
        backend::put_ready(out);
        fatal("bad packet")
    }

    async fn answer(&mut self, query: &str, out: &mut BytesMut) -> Result<(), End> {
        let Entry { console, visitor } = &self.entry;
        let now = console.now();
        visitor.set_requested_at(now);
        let done = match command::execute(console, visitor, query, out) {
            Ok(Outcome::Done(tag)) => Ok(tag),
            Ok(Outcome::When(tag, wait)) => {
                visitor.set_waits_since(Some(now));
                let ended = self.sit_out(wait).await;
                self.entry.visitor.set_waits_since(None);
                ended?.map(|()| tag.into())
            }
            Ok(Outcome::Tell(telling)) => Ok(self.tell(telling, out).await?),
            Ok(Outcome::Exit) => {
                self.outlive_handover().await;
                return Err(End::Left("shutdown"));
            }
            Err(fault) => Err(fault),
        };
        match done {
            Ok(tag) => backend::put_command_complete(out, &tag),
            Err(fault) => self.put_fault(&fault, out),
        }
        backend::put_ready(out);
        Ok(())
    }

    /// Waits until a command is done, cancelled, or its client gone.
    async fn sit_out(&mut self, wait: Wait) -> Result<Result<(), Fault>, End> {
        let Entry { console, visitor } = &self.entry;
        let mut canceled = pin!(visitor.cancel.notified());
        canceled.as_mut().enable();
        loop {
            if let Some(done) = wait.progress(console) {
                return Ok(done);
            }
            tokio::select! {
                () = tokio::time::sleep(WAIT_TICK) => {}
                () = &mut canceled => {
                    wait.cancel(console);
                    return Ok(Err(Fault::Canceled));
                }
                () = visitor.dismissal.notified() => return Err(DISMISSED),
                end = watch(&mut self.channel) => return Err(end),
            }
        }
    }

    /// Tells what another process may need. What stands still for SUSPEND goes
    /// with its descriptor to a process of the same user, and so does what the
    /// balancer listens on.
    async fn tell(
        &mut self,
        telling: Telling,
        out: &mut BytesMut,
    ) -> Result<Cow<'static, str>, End> {
        self.send(out).await?;
        let Entry { console, visitor } = &self.entry;
        let console = console.clone();
        let whole = visitor.own && console.bouncer.suspension.wanted() == Calm::Still;
        let mut rows = Rows {
            channel: &mut self.channel,
            with_descriptors: whole || telling == Telling::Balancer,
        };
        let told = timeout(TELL_LIMIT, async {
            match telling {
                Telling::Descriptors => console.tell_descriptors(&mut rows, whole).await,
                Telling::Handover => console.tell_handover(&mut rows).await,
                Telling::Balancer => console.tell_balancer(&mut rows).await,
            }
        });
        match told.await {
            Ok(Ok(())) => {
                if whole && telling == Telling::Descriptors {
                    console.bouncer.set_handed_over(true);
                }
                Ok("SHOW".into())
            }
            Ok(Err(_)) => Err(End::Left("client unexpected eof")),
            Err(_) => Err(End::Left("client does not read its answers")),
        }
    }

    /// The process that goes on with everything takes the end of the
    /// connection for the sign that it may.
    async fn outlive_handover(&self) {
        let bouncer = &self.entry.console.bouncer;
        let given_up = async {
            while bouncer.is_handed_over() {
                tokio::time::sleep(WAIT_TICK).await;
            }
        };
        if timeout(RELEASE_LIMIT, given_up).await.is_err() {
            tracing::warn!("the sockets were not given up in time");
        }
    }

    fn put_fault(&self, fault: &Fault, out: &mut BytesMut) {
        let text = fault.text();
        tracing::error!("{text}");
        report(&self.entry.console, &self.entry.visitor, &text);
        backend::put_error(out, "ERROR", fault.sqlstate(), &text);
    }
}

/// Sends the rows that are told.
struct Rows<'a> {
    channel: &'a mut Channel,
    with_descriptors: bool,
}

impl Teller for Rows<'_> {
    async fn row(
        &mut self,
        row: BytesMut,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> std::io::Result<()> {
        match descriptor {
            Some(descriptor) if self.with_descriptors => {
                self.channel.stream.send_with(&row, descriptor).await
            }
            _ => self.channel.write_all(&row).await,
        }
    }
}

impl Entry {
    fn log_end(&self, end: &End) {
        if !self.console.bouncer.config().pgbouncer.log_disconnections {
            return;
        }
        let reason: &str = match end {
            End::Left(reason) => reason,
            End::Fatal(message) => message,
        };
        let age = self.console.now().since(self.visitor.connected_at) / 1_000_000;
        let who = prefix(&self.visitor);
        tracing::info!("{who} closing because: {reason} (age={age}s)");
    }
}

const UNEXPECTED_EOF: End = End::Left("client unexpected eof");

const DISMISSED: End = End::Fatal(Cow::Borrowed("admin forced disconnect"));

fn fatal(message: &'static str) -> End {
    End::Fatal(message.into())
}

fn bad_header(head: &[u8]) -> End {
    End::Fatal(frame::bad_header(&head[..HEADER_LEN.min(head.len())]).into())
}

/// Reads on while a command waits, to see whether the client is still there.
/// What it asks meanwhile is answered afterwards.
async fn watch(channel: &mut Channel) -> End {
    while channel.carried() < MAX_QUERY_LEN {
        let read = std::future::poll_fn(|cx| channel.poll_carry(cx, MAX_QUERY_LEN)).await;
        match read {
            Ok(Received::Chunk(())) => {}
            Ok(Received::End) | Err(_) => return UNEXPECTED_EOF,
        }
    }
    // More could not be read, and its end not be seen.
    fatal("bad packet")
}

fn report(console: &Console, visitor: &Visitor, text: &str) {
    if console.bouncer.config().pgbouncer.log_pooler_errors {
        tracing::warn!("{} pooler error: {text}", prefix(visitor));
    }
}

fn prefix(visitor: &Visitor) -> String {
    let Visitor {
        id, user, address, ..
    } = visitor;
    format!("C-{id:#x}: {CONSOLE}/{user}@{address}")
}

/// AuthenticationOk, ParameterStatus, BackendKeyData and ReadyForQuery.
fn put_welcome(out: &mut BytesMut, console: &Console, key: CancelKey) {
    backend::put(out, &Authentication::Ok);
    let config = console.bouncer.config();
    let server_version = format!("{}/bouncer", config.pgweir.pgbouncer_version);
    for (name, value) in [
        ("server_version", server_version.as_str()),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ] {
        backend::put(out, &ParameterStatus::new(name.into(), value.into()));
    }
    backend::put_backend_key(out, &key, &[]);
    backend::put_ready(out);
}
