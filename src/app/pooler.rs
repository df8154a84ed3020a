//! The pooler's threads: one runtime for each worker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::takeover::Inheritance;
use crate::client::{LoginPolicy, OnConsole, TakenClient, TakenServer, Worker};
use crate::config::Config;
use crate::gateway::Queries;
use crate::net::{
    Acceptor, ListenError, Listener, SocketOptions, UnixAccess, UnixAddress, tcp_addresses,
    tcp_listener, unix_listener,
};
use crate::pool::Bouncer;
use crate::process::{LogQueue, Passed};

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
    /// The file of the Unix socket.
    file: Option<SocketFile>,
}

/// The file of a Unix socket; removed when this is dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!("the file of the Unix socket is gone: {error}");
        }
    }
}

impl Listeners {
    /// Takes what the service manager passes, else opens every TCP address once
    /// for each worker, and the Unix socket.
    ///
    /// # Errors
    /// One line that says why there is nothing to listen on.
    pub fn open(config: &Config, workers: usize, passed: Vec<Passed>) -> Result<Listeners, String> {
        let settings = &config.pgbouncer;
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
            file: None,
        }
    }

    /// Listens on what another process has listened on.
    ///
    /// # Errors
    /// Something among it is no listening socket.
    pub fn inherited(
        config: &Config,
        workers: usize,
        sockets: Vec<OwnedFd>,
    ) -> Result<Listeners, String> {
        let mut listeners = Listeners::none(workers);
        let mut tcp: BTreeMap<SocketAddr, Vec<std::net::TcpListener>> = BTreeMap::new();
        for socket in sockets {
            let address = Listener::address(&socket);
            let listener =
                Listener::of(socket).map_err(|error| format!("pooler socket: {error}"))?;
            match (listener, address) {
                (Listener::Tcp(listener), Some(address)) => {
                    tcp.entry(address).or_default().push(listener);
                }
                (Listener::Tcp(_), None) => {}
                (Listener::Unix(listener), _) => {
                    let address = listener.local_addr().ok();
                    let path = address.and_then(|it| it.as_pathname().map(Path::to_owned));
                    let shown = path.clone().unwrap_or_default();
                    tracing::info!("got pooler socket: unix:{}", shown.display());
                    let own = config.pgbouncer.unix_socket_dir.as_str();
                    listeners.file = path.filter(|it| it.starts_with(own)).map(SocketFile);
                    listeners.unix.push(listener);
                }
            }
        }
        for (address, sockets) in tcp {
            tracing::info!("got pooler socket: {address}");
            // Whoever connects may be in the queue of any of them.
            let first = sockets.len();
            for (number, socket) in sockets.iter().enumerate() {
                let copy = socket.try_clone().map_err(|error| error.to_string())?;
                listeners.tcp[number % workers].push(copy);
            }
            for worker in listeners.tcp.iter_mut().skip(first) {
                worker.push(sockets[0].try_clone().map_err(|error| error.to_string())?);
            }
        }
        Ok(listeners)
    }

    /// Other descriptors of all of them, for the next process.
    fn copies(&self) -> std::io::Result<Vec<OwnedFd>> {
        let tcp = self.tcp.iter().flatten().map(|it| it.as_fd());
        let all = tcp.chain(self.unix.iter().map(|it| it.as_fd()));
        all.map(|it| it.try_clone_to_owned()).collect()
    }

    /// Listens on what systemd has opened, and on nothing else.
    fn passed(config: &Config, workers: usize, passed: Vec<Passed>) -> Result<Listeners, String> {
        let settings = &config.pgbouncer;
        if !settings.listen_addr.is_empty() {
            tracing::warn!("sockets passed from service manager, cf_listen_addr ignored");
        }
        if !["", DEFAULT_SOCKET_DIR].contains(&settings.unix_socket_dir.as_str()) {
            tracing::warn!("sockets passed from service manager, cf_unix_socket_dir ignored");
        }
        let mut listeners = Listeners::none(workers);
        for Passed { number, socket, .. } in passed {
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
        if settings.unix_socket_dir.is_empty() {
            return Ok(());
        }
        let address = UnixAddress::new(&settings.unix_socket_dir, port);
        let path = address.path();
        // The system itself refuses an abstract name that is taken.
        let in_use = |path| std::os::unix::net::UnixStream::connect(path).is_ok();
        if path.as_ref().is_some_and(in_use) {
            return Err("unix socket is in use, cannot continue".into());
        }
        let access = UnixAccess {
            mode: u32::try_from(settings.unix_socket_mode).unwrap_or(0o777),
            group: settings.unix_socket_group.clone(),
        };
        let listener = unix_listener(&address, settings.listen_backlog, &access);
        let listener = listener.map_err(|error| match error {
            ListenError::Unix { .. } => {
                tracing::warn!("{error}");
                String::from("failed to create unix socket")
            }
            other => other.to_string(),
        })?;
        self.unix.push(listener);
        self.file = path.map(SocketFile);
        self.addresses.push(address.to_string());
        Ok(())
    }
}

/// The running workers.
pub struct Pooler {
    stop: watch::Sender<bool>,
    local: watch::Sender<bool>,
    quit: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    bouncer: Arc<Bouncer>,
    file: Mutex<Option<SocketFile>>,
    taking_over: watch::Receiver<()>,
}

/// While this lives, statements of another process are known by their numbers,
/// and not all of its servers are in their pools.
struct TakingOver {
    bouncer: Arc<Bouncer>,
    /// Its end is what it tells.
    _until: watch::Sender<()>,
}

impl Drop for TakingOver {
    fn drop(&mut self) {
        self.bouncer.dictionary.taken_over();
    }
}

impl Pooler {
    /// Starts the workers, with what there is to go on with.
    ///
    /// # Errors
    /// A thread or a runtime could not be had.
    pub fn start(
        listeners: Listeners,
        inheritance: Inheritance,
        bouncer: &Arc<Bouncer>,
        login: &Arc<LoginPolicy>,
        on_console: &Arc<OnConsole>,
        log: &Arc<LogQueue>,
        queries: Option<&Arc<Queries>>,
    ) -> std::io::Result<Pooler> {
        *bouncer.sockets() = listeners.copies()?;
        bouncer.tune_accept();
        let (until, taken_over) = watch::channel(());
        let mut pooler = Pooler {
            stop: watch::Sender::new(false),
            local: watch::Sender::new(false),
            quit: watch::Sender::new(false),
            threads: Vec::new(),
            bouncer: bouncer.clone(),
            file: Mutex::new(listeners.file),
            taking_over: taken_over,
        };
        let taking_over = Arc::new(TakingOver {
            bouncer: bouncer.clone(),
            _until: until,
        });
        let count = listeners.tcp.len();
        let mut clients = deal(inheritance.clients, count);
        let mut servers = deal(inheritance.servers, count);
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
            };
            let taken = (
                std::mem::take(&mut clients[id]),
                std::mem::take(&mut servers[id]),
                taking_over.clone(),
            );
            pooler.spawn(worker, sockets, taken)?;
        }
        Ok(pooler)
    }

    /// Resolves once everything that another process has handed over is in its
    /// place; at once if there was nothing.
    pub fn taken_over(&self) -> impl Future<Output = ()> + use<> {
        let mut taking_over = self.taking_over.clone();
        async move { while taking_over.changed().await.is_ok() {} }
    }

    /// Stops accepting from the network. The Unix socket stays until the end,
    /// for the console.
    pub fn stop_accepting(&self) {
        self.bouncer.sockets().clear();
        self.stop.send_replace(true);
    }

    /// Gives up all listening sockets: another process has them.
    pub fn give_up_sockets(&self) {
        self.stop_accepting();
        self.local.send_replace(true);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // The next process's now.
        std::mem::forget(file.take());
    }

    /// Ends the workers and whatever clients they have.
    pub fn quit(self) {
        self.stop_accepting();
        self.local.send_replace(true);
        self.quit.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended with a panic");
            }
        }
    }

    fn spawn(
        &mut self,
        worker: Arc<Worker>,
        sockets: Sockets,
        (clients, servers, taking_over): Taken,
    ) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, local) = (self.stop.subscribe(), self.local.subscribe());
        let mut quit = self.quit.subscribe();
        let name = format!("worker-{}", worker.id);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async {
                let lost = |error| tracing::error!("socket takeover failed: {error}");
                for server in servers {
                    server
                        .enter(&worker.bouncer, worker.id)
                        .unwrap_or_else(lost);
                }
                for client in clients {
                    worker.take_over(client).unwrap_or_else(lost);
                }
                drop(taking_over);
                match sockets.into_acceptors(worker.bouncer.socket_options()) {
                    Ok(acceptors) => {
                        for acceptor in acceptors {
                            let until = match acceptor {
                                Acceptor::Tcp(_) => stop.clone(),
                                Acceptor::Unix(_) => local.clone(),
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

/// What one worker goes on with.
type Taken = (Vec<TakenClient>, Vec<TakenServer>, Arc<TakingOver>);

/// Deals these out, as many to each.
fn deal<T>(these: Vec<T>, hands: usize) -> Vec<Vec<T>> {
    let mut dealt: Vec<Vec<T>> = (0..hands).map(|_| Vec::new()).collect();
    for (number, one) in these.into_iter().enumerate() {
        dealt[number % hands].push(one);
    }
    dealt
}

struct Sockets {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<std::os::unix::net::UnixListener>,
}

impl Sockets {
    fn into_acceptors(self, options: SocketOptions) -> std::io::Result<Vec<Acceptor>> {
        let mut acceptors = Vec::new();
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            // What is accepted inherits them from its first packet on.
            options.apply_buffers(&listener);
            acceptors.push(Acceptor::Tcp(listener));
        }
        for listener in self.unix {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            acceptors.push(Acceptor::Unix(listener));
        }
        Ok(acceptors)
    }
}
