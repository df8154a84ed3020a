//! Sockets: streams as the data path uses them, listeners, names of hosts, and
//! reaching a server.

mod channel;
mod connect;
mod listen;
mod names;
mod options;
pub mod rights;
mod stream;
pub mod tls;
mod unix_address;

pub use channel::{CHUNK_LEN, Channel, Message, Received};
pub use connect::{ConnectError, Host, connect};
pub use listen::{
    Acceptor, ListenError, Listener, UnixAccess, set_defer_accept, tcp_addresses, tcp_listener,
    unix_listener,
};
pub use names::{KnownName, KnownZone, Lifetimes, Names, Resolver};
pub use options::SocketOptions;
pub use stream::{Address, Stream};
pub use unix_address::UnixAddress;
