//! The settings PgBouncer does not have: `[pgweir]`, `[metrics]`, `[queries]`,
//! `[prepare]`, `[balancer]` and what is below it.
//!
//! `also` holds the fields that are sections of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::kind::Kind;
use super::model::{Password, Replay};
use super::network::Network;
use super::settings::{default_text, reloadable, section};

section! {
    /// The `[pgweir]` section: what PgBouncer does not have.
    Pgweir {
        /// Worker threads of the pooler; 0 chooses by the number of cores.
        workers: usize = "0", Kind::Int { min: 0, max: 1024 }, start, Pgweir;
        /// Parallel server logins per pool once logins succeed; 0 is as many as clients wait, 1 is PgBouncer's way.
        server_login_concurrency: u32 = "0", Kind::UINT, reload, Pgweir;
        /// SCRAM over TLS is bound to the server's certificate (SCRAM-SHA-256-PLUS): offered to clients, and used towards servers that offer it. Turn it off where something between ends TLS and begins it anew.
        channel_binding: bool = "1", Kind::Bool, reload, Pgweir;
        /// Newest protocol asked of servers: `3.2` has longer cancel keys (PostgreSQL 18). A server that does not know it says so and gets 3.0; of those before 2018, and of other products, some refuse it.
        server_protocol: String = "3.0", Kind::Word(&["3.0", "3.2"]), reload, Pgweir;
        /// How TLS with servers begins, in libpq's words: `postgres` asks for it; `direct` does not, which saves a round trip (PostgreSQL 17). Only where `server_tls_sslmode` is `require` or more is there no need to ask.
        server_tls_negotiation: String = "postgres", Kind::Word(&["postgres", "direct"]), reload, Pgweir;
        /// How long it is remembered that `auth_query` knows no user of a name; 0 asks every time, as PgBouncer does.
        auth_query_negative_ttl: Duration = "1", Kind::Time, reload, Pgweir;
        /// The version that SHOW VERSION, the console's greeting and `pgbouncer_version_info` give: that of the PgBouncer that pgweir stands in for, since monitoring reads it.
        pgbouncer_version: String = "1.25.2", Kind::Version, reload, Pgweir;
        /// How log lines are written; `auto` is PgBouncer's format when called as `pgbouncer`, else text on a terminal and JSON elsewhere.
        log_format: String = "auto", Kind::Word(&["auto", "pgbouncer", "text", "json"]), start, Pgweir;
    }
}

section! {
    /// The `[metrics]` section: the admin port.
    Metrics {
        /// Where `/metrics`, `/health` and `/ready` are served; empty for nowhere. In an ini file without `[metrics]`: nowhere.
        listen: Option<SocketAddr> = "127.0.0.1:9127", Kind::Address, start, Pgweir;
    }
}

section! {
    /// The `[queries]` section: per-query statistics.
    Queries {
        /// Count statements; off, they are not even read.
        enabled: bool = "1", Kind::Bool, reload, Pgweir;
        /// Normalised statements kept in memory.
        max_statements: usize = "5000", Kind::UINT, reload, Pgweir;
        /// Normalised statements shown in `/metrics`; the rest is `other`.
        max_exported: usize = "100", Kind::UINT, reload, Pgweir;
        /// Longest statement text kept, in bytes.
        max_text: usize = "1024", Kind::Size, reload, Pgweir;
    }
}

section! {
    /// The `[prepare]` section: what runs once before the listeners open.
    Prepare {
        /// Server to prepare, directly, not through the pooler; required.
        host: String = "", Kind::Text, start, Pgweir;
        /// Its port.
        port: u16 = "5432", Kind::SERVER_PORT, start, Pgweir;
        /// Database to prepare.
        dbname: String = "postgres", Kind::Text, start, Pgweir;
        /// User that owns the work; required.
        user: String = "", Kind::Text, start, Pgweir;
        /// Its password.
        password: Option<Password> = null, Kind::Secret, start, Pgweir;
        /// Seeding command, program and arguments; empty for none.
        seed: Vec<String> = "", Kind::Words, start, Pgweir;
        /// Extra environment of the seeding command.
        seed_env: BTreeMap<String, String> = "", Kind::Environment, start, Pgweir;
        /// Query that says, with one true boolean, that seeding is not needed.
        unless: Option<String> = null, Kind::Text, start, Pgweir;
        /// Folder of numbered SQL files.
        migrations: Option<PathBuf> = null, Kind::File, start, Pgweir;
        /// How long to wait for the server to accept connections.
        wait_timeout: Duration = "60", Kind::Time, start, Pgweir;
        /// `lock_timeout` of a migration.
        lock_timeout: Duration = "0.5", Kind::Time, start, Pgweir;
        /// Tries of a migration that ran into `lock_timeout`.
        lock_retries: u32 = "20", Kind::UINT, start, Pgweir;
        /// Serve while preparing instead of after it.
        serve_early: bool = "0", Kind::Bool, start, Pgweir;
    }
}

section! {
    /// The `[balancer]` section.
    Balancer {
        /// Plain HTTP listeners; required unless `https_listen` is given.
        listen: Vec<SocketAddr> = "", Kind::Addresses, start, Pgweir;
        /// HTTPS listeners; the same is served as on the plain ones, and neither redirects to the other.
        https_listen: Vec<SocketAddr> = "", Kind::Addresses, start, Pgweir;
        /// Serve HTTP/3 too, on the UDP ports of `https_listen`, and tell clients so (`Alt-Svc`).
        http3: bool = "1", Kind::Bool, start, Pgweir;
        /// The certificate of `https_listen` with those that lead to its authority, in PEM; read again when it changes. Absent: one is ordered (`acme`), or a self-signed one is made.
        tls_cert_file: Option<PathBuf> = null, Kind::File, start, Pgweir;
        /// Its key, in PEM.
        tls_key_file: Option<PathBuf> = null, Kind::File, start, Pgweir;
        /// Names of the site, and of a self-signed certificate besides `localhost`, `127.0.0.1` and `::1`. Who asks for one of them in its handshake gets 421 for other hosts.
        domain: Vec<String> = "", Kind::Words, start, Pgweir;
        /// Have a certificate for all of `domain` issued, and renewed, by an authority that speaks ACME (RFC 8555), Let's Encrypt if `acme_directory` names no other; that is to agree to its terms of service. For builds with the feature `acme`.
        acme: bool = "0", Kind::Bool, start, Pgweir;
        /// The authority: the `https` URL of its directory.
        acme_directory: String = "https://acme-v02.api.letsencrypt.org/directory", Kind::Text, start, Pgweir;
        /// Mail addresses the authority may write to. Absent: none.
        acme_contact: Vec<String> = "", Kind::Words, start, Pgweir;
        /// Certificates, in PEM, that prove `acme_directory` to be itself, for authorities that the system does not trust. Absent: those the system trusts.
        acme_ca_file: Option<PathBuf> = null, Kind::File, start, Pgweir;
        /// How the authority sees whose names they are: it connects to port 443, which has to lead to `https_listen`, or asks over HTTP on port 80, which has to lead to `listen`.
        acme_challenge: String = "tls-alpn-01", Kind::Word(&["tls-alpn-01", "http-01"]), start, Pgweir;
        /// Folder for what is kept from start to start: the self-signed certificate, and what `acme` has to do with. Absent: `$STATE_DIRECTORY`, which systemd sets, else `/var/lib/pgweir`.
        state_dir: Option<PathBuf> = null, Kind::File, start, Pgweir;
        /// Proxies that say whose connection they pass on (PROXY protocol, versions 1 and 2) before anything else, in TCP: networks as `10.0.0.0/8`. Who is in them must, and of nobody else it is heard.
        proxy_protocol_from: Vec<Network> = "", Kind::Networks, reload, Pgweir;
        /// Proxies, by their networks, that are believed in what they say of clients: `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`. From others it is dropped.
        trusted_proxies: Vec<Network> = "", Kind::Networks, reload, Pgweir;
        /// Tell nodes the client, the scheme and the host in `Forwarded` (RFC 7239), too.
        forwarded: bool = "0", Kind::Bool, reload, Pgweir;
        /// Time to connect to a node.
        connect_timeout: Duration = "1", Kind::Time, reload, Pgweir;
        /// Time from a request's arrival to the end of its answer, where the route does not say.
        request_timeout: Duration = "25", Kind::Time, reload, Pgweir;
        /// Time a client may take for its TLS handshake, and for its request head.
        header_timeout: Duration = "10", Kind::Time, reload, Pgweir;
        /// Idle time of a client's or a node's kept connection.
        keepalive_timeout: Duration = "60", Kind::Time, reload, Pgweir;
        /// Longest pause between two pieces of a body, in either direction.
        body_timeout: Duration = "30", Kind::Time, reload, Pgweir;
        /// Longest time in which neither side of a tunnel (`upgrade` of a route) says anything.
        tunnel_timeout: Duration = "300", Kind::Time, reload, Pgweir;
        /// Requests in flight to one node, tunnels among them; more wait.
        max_in_flight: usize = "200", Kind::Int { min: 1, max: u32::MAX as i64 }, reload, Pgweir;
        /// Waiting requests; more are refused with 503.
        queue_size: usize = "1000", Kind::UINT, reload, Pgweir;
        /// How long a node that came up is spared: a request at it counts as ten at first, and as one in the end.
        slow_start: Duration = "5", Kind::Time, reload, Pgweir;
        /// Longest wait in the queue.
        queue_timeout: Duration = "5", Kind::Time, reload, Pgweir;
        /// Largest request body.
        max_body: u64 = "10485760", Kind::Size, reload, Pgweir;
        /// Requests a second from one client address (IPv6: one /64); more get 429. 0 is any number.
        client_rate: u32 = "0", Kind::UINT, reload, Pgweir;
        /// How many of them may come at once; 0 is as many as in a second.
        client_burst: u32 = "0", Kind::UINT, reload, Pgweir;
        /// Requests are refused with 503 while more clients than this wait for a server in the pooler of the same process; 0 never.
        shed_pool_waiting: usize = "0", Kind::UINT, reload, Pgweir;
        /// Bytes of answers kept, of routes with `cache`.
        cache_size: u64 = "16777216", Kind::Size, reload, Pgweir;
        /// Nodes of a Redis Cluster, as `redis://10.0.0.1:6379`, by which balancers share the answers they keep; some of them are enough to find the others. Empty: each balancer has its own alone. Needs the feature `shared-cache`.
        shared_cache: Vec<String> = "", Kind::Words, reload, Pgweir;
        /// What the keys there begin with; balancers share what has the same. Absent: the first name of `domain`, else `pgweir`.
        shared_cache_prefix: Option<String> = null, Kind::Text, reload, Pgweir;
        /// User to log in there as; absent: the default one.
        shared_cache_user: Option<String> = null, Kind::Text, reload, Pgweir;
        /// Password to log in there with; absent: none.
        shared_cache_password: Option<Password> = null, Kind::Secret, reload, Pgweir;
        /// File whose first line is that password, instead; read at the start and by a reload.
        shared_cache_password_file: Option<PathBuf> = null, Kind::File, reload, Pgweir;
        /// Longest wait for the shared cache before a node is asked, from 0.001 to 1. What is given to clients from the own cache never waits for it.
        shared_cache_timeout: Duration = "0.05", Kind::Time, reload, Pgweir;
        /// Where the JSON access log goes: a file or `stdout`; absent: nowhere.
        access_log: Option<String> = null, Kind::File, reload, Pgweir;
    }
    also {
        /// Application nodes, `[balancer.nodes.NAME]`.
        nodes: BTreeMap<String, Node>;
        /// Routes, `[balancer.routes.NAME]`.
        routes: BTreeMap<String, Route>;
        /// Health check settings, `[balancer.health]`.
        health: Health;
    }
}

section! {
    /// Active health checks.
    Health {
        /// Path asked for.
        path: String = "/ping", Kind::Path, reload, Pgweir;
        /// Body expected; absent: any 2xx answer will do.
        body: Option<String> = null, Kind::Text, reload, Pgweir;
        /// Time between checks.
        interval: Duration = "1", Kind::Time, reload, Pgweir;
        /// Time between checks while in doubt.
        fast_interval: Duration = "0.1", Kind::Time, reload, Pgweir;
        /// Time for one check.
        timeout: Duration = "1", Kind::Time, reload, Pgweir;
        /// Good checks that bring a node back.
        rise: u32 = "2", Kind::Int { min: 1, max: 1000 }, reload, Pgweir;
        /// Bad checks that take it out.
        fall: u32 = "2", Kind::Int { min: 1, max: 1000 }, reload, Pgweir;
    }
}

section! {
    /// One application node.
    Node {
        /// `HOST:PORT`; required.
        address: String = "", Kind::HostPort, reload, Pgweir;
    }
}

section! {
    /// One route. Paths are matched whole; literal segments go before `{id}`, and routes that name methods before those that do not.
    Route {
        /// Path pattern of literal segments and `{id}` segments, `/api/movie/{id}`; required.
        path: String = "", Kind::Path, reload, Pgweir;
        /// Methods; empty is all.
        methods: Vec<String> = "", Kind::Words, reload, Pgweir;
        /// Deadline of a request on this route; absent: `request_timeout`.
        timeout: Option<Duration> = null, Kind::Time, reload, Pgweir;
        /// When a failed request may be sent to another node: `proven` is when it never reached the first one, or its method is safe.
        replay: Replay = "proven", Kind::Word(Replay::WORDS), reload, Pgweir;
        /// A GET, HEAD or OPTIONS whose answer takes longer than nineteen in twenty on this route is asked of a second node too, if one is free, and the first answer counts. At most one request in twenty is.
        hedge: bool = "0", Kind::Bool, reload, Pgweir;
        /// Protocols that a connection of HTTP/1.1 may go on in when client and node agree, as `websocket`: a GET without a body then becomes a tunnel. Empty: none, and nodes do not hear of it.
        upgrade: Vec<String> = "", Kind::Words, reload, Pgweir;
        /// Requests a second on this route, of all clients together; more get 429. 0 is any number.
        rate: u32 = "0", Kind::UINT, reload, Pgweir;
        /// How many of them may come at once; 0 is as many as in a second.
        burst: u32 = "0", Kind::UINT, reload, Pgweir;
        /// Answers to GET are kept and given to everybody until they are this old, counted from when the node was asked; a query is part of what is asked. Absent: nothing of this route is kept.
        cache: Option<Duration> = null, Kind::Time, reload, Pgweir;
        /// Answers to GET are kept for as long as they say themselves (`Cache-Control`, `Expires`; RFC 9111), served stale where they allow it (RFC 5861), and dropped when another method has changed the same target. `cache`, if it is there too, is the bound.
        cache_control: bool = "0", Kind::Bool, reload, Pgweir;
        /// An answer of a route with `cache` is there from the start on, and fetched anew before it is too old, also when nobody asks for it. Not for a `path` with `{id}`, and not with `cache_control`.
        cache_warm: bool = "1", Kind::Bool, reload, Pgweir;
    }
}
