//! What the fuzzers of `integration/fuzz` run, and what their corpora are
//! replayed with. Not part of the product: it is compiled for these two only.
//!
//! Each target takes any bytes and panics if something is wrong. They lie in
//! `fuzz` beside what they try, so that they reach into it.

pub use crate::admin::fuzz::console;
pub use crate::auth::fuzz::auth;
pub use crate::balancer::fuzz::{http, proxy, quic};
pub use crate::client::flow::fuzz::flow;
pub use crate::client::flow::model::fuzz::model;
pub use crate::client::fuzz::login;
pub use crate::gateway::fuzz::gateway;
pub use crate::net::tls::fuzz::tls;
pub use crate::server::fuzz::greeting;
pub use crate::wire::fuzz::wire;

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    type Target = fn(&[u8]);

    /// Every target and the name of its folders.
    const TARGETS: &[(&str, Target)] = &[
        ("auth", auth),
        ("console", console),
        ("flow", flow),
        ("gateway", gateway),
        ("greeting", greeting),
        ("http", http),
        ("login", login),
        ("model", model),
        ("proxy", proxy),
        ("quic", quic),
        ("tls", tls),
        ("wire", wire),
    ];

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fuzz")
    }

    fn names(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("a folder of the fuzzers");
        let mut names: Vec<_> = entries.map(|it| it.expect("readable").path()).collect();
        names.sort();
        names
    }

    #[test]
    fn every_input_of_the_corpora_passes() {
        for (name, target) in TARGETS {
            let (seeds, corpus) = (folder().join("seeds"), folder().join("corpus"));
            let inputs = [seeds, corpus].map(|folder| names(&folder.join(name)));
            for input in inputs.iter().flatten() {
                let data = std::fs::read(input).expect("an input");
                eprintln!("{}", input.display());
                target(&data);
            }
        }
    }

    #[test]
    fn every_target_is_replayed() {
        let targets = names(&folder().join("targets"));
        let targets = targets.iter().filter_map(|path| path.file_stem()?.to_str());
        let replayed: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(targets.collect::<Vec<_>>(), replayed);
    }
}
