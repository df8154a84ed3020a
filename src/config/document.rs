//! `docs/configuration.md`: every setting, from the tables.

use super::entries::{Database, Peer, User};
use super::native::{Balancer, Health, Metrics, Node, Pgweir, Prepare, Queries, Route};
use super::pgbouncer::Pgbouncer;
use super::settings::{Section, Setting, Since};

const INTRODUCTION: &str = include_str!("document.md");

/// The page that documents every setting, in Markdown.
pub fn document() -> String {
    let mut page = INTRODUCTION.to_owned();
    section::<Pgbouncer>(
        &mut page,
        "[pgbouncer]",
        "PgBouncer's settings under PgBouncer's names. The order is that of `SHOW CONFIG`.",
    );
    section::<Database>(
        &mut page,
        "[databases]",
        "One entry for each database a client may ask for; in TOML a table `[databases.NAME]`. `*` is used for every name that has no entry. `pgbouncer` is the console's name and reserved; names have at most 63 bytes.",
    );
    section::<User>(
        &mut page,
        "[users]",
        "One entry for each server user with settings of its own; in TOML a table `[users.NAME]`. They go before the database's and the global ones.",
    );
    section::<Peer>(
        &mut page,
        "[peers]",
        "One entry for each pooler behind the same address, so that cancel requests find their way; its name is its `peer_id`. In TOML a table `[peers.ID]`.",
    );
    section::<Pgweir>(&mut page, "[pgweir]", "What PgBouncer does not have.");
    section::<Metrics>(&mut page, "[metrics]", "The admin port.");
    section::<Queries>(
        &mut page,
        "[queries]",
        "Statistics of the statements that pass through.",
    );
    section::<Prepare>(
        &mut page,
        "[prepare]",
        "What runs once, before the pooler and the balancer open their listeners: wait for the server, seed, migrate. Nothing runs without this section.",
    );
    section::<Balancer>(
        &mut page,
        "[balancer]",
        "The HTTP balancer. It is off without this section, and needs one node at least.",
    );
    section::<Health>(&mut page, "[balancer.health]", "How the nodes are checked.");
    section::<Node>(&mut page, "[balancer.nodes.NAME]", "One application node.");
    section::<Route>(
        &mut page,
        "[balancer.routes.NAME]",
        "One kind of request. A request that no route matches is handled by `[balancer]`'s own settings.",
    );
    page
}

fn section<S: Section>(page: &mut String, title: &str, about: &str) {
    page.push_str(&format!(
        "\n## {title}\n\n{about}\n\n| setting | type | default | reload | meaning |\n|---|---|---|---|---|\n"
    ));
    page.extend(S::SETTINGS.iter().map(row));
}

fn row<S>(setting: &Setting<S>) -> String {
    let default = match setting.default {
        None => "null".to_owned(),
        Some("") => "empty".to_owned(),
        Some(text) => format!("`{text}`"),
    };
    let since = if setting.since == Since::Development {
        " (newer than PgBouncer 1.25)"
    } else {
        ""
    };
    format!(
        "| `{}` | {} | {default} | {} | {}{since} |\n",
        setting.name,
        setting.kind.name(),
        if setting.reloadable { "yes" } else { "no" },
        setting.doc,
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::ini::{self, Duplicates};
    use crate::config::toml;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

    /// Writes the page instead when `PGWEIR_DOCUMENT` is set.
    #[test]
    fn the_page_in_docs_is_made_from_the_tables() {
        if std::env::var_os("PGWEIR_DOCUMENT").is_some() {
            std::fs::write(FILE, document()).expect("docs/ is writable");
        }
        let page = std::fs::read_to_string(FILE).unwrap_or_default();
        assert!(
            page == document(),
            "docs/configuration.md is not what the tables say; run: \
             PGWEIR_DOCUMENT=1 cargo test --lib config::document"
        );
    }

    /// The first block of that language.
    fn example(language: &str) -> &str {
        let (_, rest) = INTRODUCTION
            .split_once(&format!("```{language}\n"))
            .expect("an example");
        rest.split_once("```").expect("its end").0
    }

    #[test]
    fn the_examples_load() {
        let path = Path::new("example");
        let loaded = ini::read_bytes(example("ini").as_bytes(), path, Duplicates::Refuse);
        let ini = loaded.expect("a good ini").config;
        assert_eq!(ini.databases["a name"].user.as_deref(), Some("app"));
        let toml = toml::read_bytes(example("toml").as_bytes(), path)
            .expect("a good TOML")
            .config;
        assert_eq!(toml.databases.len(), 2);
    }

    #[test]
    fn the_error_shown_is_the_error_made() {
        let text = format!("{}[pgbouncer]\nmax_client_con = 5\n", "\n".repeat(10));
        let path = Path::new("pgbouncer.ini");
        let error = ini::read_bytes(text.as_bytes(), path, Duplicates::Refuse).expect_err("bad");
        assert!(
            INTRODUCTION.contains(&format!("```\n{error}\n```")),
            "{error}"
        );
    }

    #[test]
    fn no_cell_breaks_its_row() {
        let page = document();
        let (_, tables) = page
            .split_once("\n## [pgbouncer]\n")
            .expect("the first section");
        for line in tables.lines().filter(|line| line.starts_with('|')) {
            assert_eq!(line.matches('|').count(), 6, "{line}");
        }
    }
}
