//! The pooler's threads: one runtime for each worker.

use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::client::{LoginPolicy, OnConsole, Worker};
use crate::config::Config;
use crate::gateway::Queries;
use crate::net::{
    Acceptor, ListenError, Listener, SocketOptions, tcp_addresses, tcp_listener, unix_listener,
};
use crate::pool::Bouncer;
use crate::process::{LogQueue, passed_sockets};

/// On machines with at most this many cores one worker leaves the rest to
/// PostgreSQL.
const SMALL_MACHINE: usize = 2;

/// How many workers to run.
pub fn worker_count(config: &Config, as_pgbouncer: bool) -> usize {
    match config.pgweir.workers {
        0 if as_pgbouncer => 1,
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            if cores <= SMALL_MACHINE { 1 } else { cores / 2 }
        }
        workers => workers,
    }
}

/// PgBouncer's default of `unix_socket_dir`: nobody has asked for that one.
const DEFAULT_SOCKET_DIR: &str = "/tmp";

/// Listening sockets before any thread runs: what cannot be had is known at
/// once.
pub struct Listeners {
    tcp: Vec<Vec<std::net::TcpListener>>,
    unix: Vec<std::os::unix::net::UnixListener>,
    addresses: Vec<String>,
}

impl Listeners {
    /// Takes what the service manager passes, else opens every TCP address once for each worker, and the Unix socket.
    ///
    /// # Errors
    /// One line that says why there is nothing to listen on.
    pub fn open(config: &Config, workers: usize) -> Result<Listeners, String> {
        let settings = &config.pgbouncer;
        let passed = passed_sockets();
        let passed =
            passed.map_err(|error| format!("sockets passed from service manager: {error}"))?;
        if !passed.is_empty() {
            return Listeners::passed(config, workers, passed);
        }
        let port = u16::try_from(settings.listen_port)
            .map_err(|_| format!("listen_port {} is not a port", settings.listen_port))?;
        let addresses =
            tcp_addresses(&settings.listen_addr, port).map_err(|error| error.to_string())?;
        let mut listeners = Listeners::none(workers);
        for &address in &addresses {
            match listeners.open_tcp(address, config) {
                Ok(()) => listeners.addresses.push(address.to_string()),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        if !addresses.is_empty() && listeners.addresses.is_empty() {
            return Err(format!(
                "failed to listen on any address in listen_addr list: {}",
                settings.listen_addr
            ));
        }
        listeners.open_unix(config, port)?;
        if listeners.addresses.is_empty() {
            return Err("nowhere to listen on".into());
        }
        Ok(listeners)
    }

    fn none(workers: usize) -> Listeners {
        Listeners {
            tcp: (0..workers).map(|_| Vec::new()).collect(),
            unix: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// Listens on what systemd has opened, and on nothing else.
    fn passed(
        config: &Config,
        workers: usize,
        passed: Vec<(RawFd, OwnedFd)>,
    ) -> Result<Listeners, String> {
        let settings = &config.pgbouncer;
        if !settings.listen_addr.is_empty() {
            tracing::warn!("sockets passed from service manager, cf_listen_addr ignored");
        }
        if !["", DEFAULT_SOCKET_DIR].contains(&settings.unix_socket_dir.as_str()) {
            tracing::warn!("sockets passed from service manager, cf_unix_socket_dir ignored");
        }
        let mut listeners = Listeners::none(workers);
        for (number, socket) in passed {
            let failed = |error| {
                format!(
                    "failed to set up socket passed from service manager (fd {number}): {error}"
                )
            };
            match Listener::of(socket).map_err(failed)? {
                Listener::Unix(listener) => listeners.unix.push(listener),
                Listener::Tcp(listener) => {
                    for worker in &mut listeners.tcp {
                        worker.push(listener.try_clone().map_err(failed)?);
                    }
                }
            }
            tracing::info!("socket passed from service manager (fd {number})");
        }
        Ok(listeners)
    }

    /// What is listened on, for the log.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    fn open_tcp(&mut self, address: SocketAddr, config: &Config) -> Result<(), ListenError> {
        let settings = &config.pgbouncer;
        let (backlog, shared) = (settings.listen_backlog, settings.so_reuseport);
        let several = self.tcp.len() > 1;
        if several && !shared {
            // Ours share the port with each other; nobody else may have it.
            drop(tcp_listener(address, backlog, false)?);
        }
        for worker in &mut self.tcp {
            worker.push(tcp_listener(address, backlog, shared || several)?);
        }
        Ok(())
    }

    fn open_unix(&mut self, config: &Config, port: u16) -> Result<(), String> {
        let settings = &config.pgbouncer;
        if settings.unix_socket_dir.is_empty() || settings.unix_socket_dir.starts_with('@') {
            return Ok(());
        }
        let directory = Path::new(&settings.unix_socket_dir);
        let path = directory.join(format!(".s.PGSQL.{port}"));
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err("unix socket is in use, cannot continue".into());
        }
        let mode = u32::try_from(settings.unix_socket_mode).unwrap_or(0o777);
        let listener = unix_listener(directory, port, mode).map_err(|error| {
            tracing::error!("{error}");
            String::from("failed to create unix socket")
        })?;
        self.unix.push(listener);
        self.addresses.push(format!("unix:{}", path.display()));
        Ok(())
    }
}

/// The running workers.
pub struct Pooler {
    stop: watch::Sender<bool>,
    quit: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pooler {
    /// Starts the workers.
    ///
    /// # Errors
    /// A thread or a runtime could not be had.
    pub fn start(
        listeners: Listeners,
        bouncer: &Arc<Bouncer>,
        login: &Arc<LoginPolicy>,
        on_console: &Arc<OnConsole>,
        log: &Arc<LogQueue>,
        queries: Option<&Arc<Queries>>,
    ) -> std::io::Result<Pooler> {
        let (stop, _) = watch::channel(false);
        let (quit, _) = watch::channel(false);
        let mut pooler = Pooler {
            stop,
            quit,
            threads: Vec::new(),
        };
        let mut unix = listeners.unix;
        for (id, tcp) in listeners.tcp.into_iter().enumerate() {
            let worker = Worker::new(
                id,
                bouncer.clone(),
                login.clone(),
                on_console.clone(),
                log.clone(),
                queries.cloned(),
            );
            // One worker has the Unix socket: local clients are few.
            let sockets = Sockets {
                tcp,
                unix: std::mem::take(&mut unix),
                options: bouncer.socket_options(),
            };
            pooler.spawn(worker, sockets)?;
        }
        Ok(pooler)
    }

    /// Stops accepting from the network. The Unix socket stays until the end,
    /// for the console.
    pub fn stop_accepting(&self) {
        self.stop.send_replace(true);
    }

    /// Ends the workers and whatever clients they have.
    pub fn quit(self) {
        self.stop.send_replace(true);
        self.quit.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended with a panic");
            }
        }
    }

    fn spawn(&mut self, worker: Arc<Worker>, sockets: Sockets) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, mut quit) = (self.stop.subscribe(), self.quit.subscribe());
        let name = format!("worker-{}", worker.id);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async {
                match sockets.into_acceptors() {
                    Ok(acceptors) => {
                        for acceptor in acceptors {
                            let until = match acceptor {
                                Acceptor::Tcp(..) => stop.clone(),
                                Acceptor::Unix(_) => quit.clone(),
                            };
                            tokio::spawn(worker.clone().accept(acceptor, until));
                        }
                    }
                    Err(error) => tracing::error!("a worker cannot listen: {error}"),
                }
                tokio::spawn(worker.keep_a_timer_near());
                drop(quit.wait_for(|quit| *quit).await);
            });
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

struct Sockets {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<std::os::unix::net::UnixListener>,
    options: SocketOptions,
}

impl Sockets {
    fn into_acceptors(self) -> std::io::Result<Vec<Acceptor>> {
        let mut acceptors = Vec::new();
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            acceptors.push(Acceptor::Tcp(listener, self.options));
        }
        for listener in self.unix {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            acceptors.push(Acceptor::Unix(listener));
        }
        Ok(acceptors)
    }
}
