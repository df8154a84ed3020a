//! What each command does.

use std::sync::Arc;
use std::time::Duration;

use super::command::{Call, Outcome};
use super::fault::Fault;
use super::process::ShutdownMode;
use super::wait::{NOT_PAUSED, Wait, not_paused};
use crate::config::SetError;
use crate::http::NodeMode;
use crate::pool::{CONSOLE, Database};
use crate::wire::backend;

/// How long KILL and KILL_CLIENT wait for those they end. A client gets a
/// second to read its last message, a server one to close its end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// PgBouncer's words for TLS settings that cannot be used.
const TLS_NOT_APPLIED: &str = "TLS settings could not be applied, still using old configuration";

/// DISABLE and ENABLE do not take all databases at once.
const DATABASE_REQUIRED: &str = "a database is required";

/// SET key = value.
pub fn set(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    let (key, value) = (call.argument, call.value);
    let bouncer = &call.console.bouncer;
    let outcome = bouncer.update_config(|config| config.pgbouncer.set(key, value));
    match outcome {
        Ok(()) => {
            call.console.process.settings_changed();
            if is_about_tls(key) && !call.console.process.tls_changed() {
                backend::put_notice(call.out, TLS_NOT_APPLIED, "");
            }
            return Ok(Outcome::Done(format!("SET {key}={value}").into()));
        }
        Err(SetError::UnknownKey) => tracing::error!("unknown parameter: pgbouncer/{key}"),
        Err(SetError::BadValue) => {
            tracing::error!("invalid value \"{value}\" for parameter {key} in configuration");
        }
    }
    Err(Fault::SetFailed)
}

fn is_about_tls(key: &str) -> bool {
    key.contains("_tls_") || key.contains("_tls13_")
}

/// RELOAD.
pub fn reload(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    if let Err(why) = call.console.process.reload() {
        tracing::error!("{why}");
        return Err(Fault::ReloadFailed);
    }
    done("RELOAD")
}

/// PAUSE [db].
pub fn pause(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    call.refuse_while_paused()?;
    let database = call.any_database("pause")?;
    call.console.bouncer.set_paused(database.as_deref(), true);
    Ok(Outcome::When("PAUSE", Wait::Paused(database)))
}

/// RESUME [db].
pub fn resume(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    let bouncer = &call.console.bouncer;
    if call.argument == CONSOLE {
        return Err(not_paused(CONSOLE));
    }
    let database = match call.argument {
        "" if bouncer.is_shutting_down() => return Err("pooler is shutting down".into()),
        "" if bouncer.is_suspended() => {
            bouncer.resume_suspended();
            return done("RESUME");
        }
        "" if !bouncer.is_paused() => return Err(NOT_PAUSED.into()),
        "" => None,
        name => Some(call.known_database(name)?),
    };
    if let Some(database) = database.as_ref().filter(|database| !database.is_paused()) {
        return Err(not_paused(&database.name));
    }
    bouncer.set_paused(database.as_deref(), false);
    done("RESUME")
}

/// DISABLE db.
pub fn disable(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    let database = call.any_database("disable")?;
    database.ok_or(DATABASE_REQUIRED)?.set_disabled(true);
    done("DISABLE")
}

/// ENABLE db.
pub fn enable(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    match call.argument {
        "" => return Err(DATABASE_REQUIRED.into()),
        CONSOLE => return Err(format!("cannot enable admin db: {CONSOLE}").into()),
        name => call.known_database(name)?.set_disabled(false),
    }
    done("ENABLE")
}

/// RECONNECT [db].
pub fn reconnect(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    let database = call.any_database("reconnect")?;
    call.console.bouncer.mark_servers(database.as_ref());
    done("RECONNECT")
}

/// KILL [db].
pub fn kill(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    call.refuse_while_paused()?;
    let bouncer = &call.console.bouncer;
    let databases = match call.any_database("kill")? {
        Some(database) => vec![database],
        None => bouncer.databases(),
    };
    let mut pools = bouncer.pools();
    pools.retain(|pool| databases.iter().any(|it| Arc::ptr_eq(it, &pool.database)));
    for database in &databases {
        bouncer.set_paused(Some(database), true);
        bouncer.drop_pools(&database.name);
    }
    let killed = Wait::Killed {
        pools,
        databases,
        deadline: call.console.now() + KILL_LIMIT,
    };
    Ok(Outcome::When("KILL", killed))
}

/// KILL_CLIENT id.
pub fn kill_client(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    const REASON: &str = "admin forced disconnect";
    let id: u64 = call
        .argument
        .parse()
        .map_err(|_| Fault::from("invalid client pointer supplied"))?;
    let clients = &call.console.bouncer.clients;
    let client = clients.iter().find(|client| client.id == id);
    if let Some(client) = client {
        client.doom(REASON);
    } else if let Some(visitor) = call.console.visitors.get(&id) {
        visitor.dismissal.notify_one();
    } else {
        return Err("client not found".into());
    }
    let deadline = call.console.now() + KILL_LIMIT;
    let gone = Wait::Gone {
        client: id,
        deadline,
    };
    Ok(Outcome::When("KILL_CLIENT", gone))
}

/// SUSPEND.
pub fn suspend(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    call.refuse_while_paused()?;
    let databases = call.console.bouncer.databases();
    if databases.iter().any(|database| database.is_paused()) {
        return Err("cannot suspend with paused databases".into());
    }
    let bouncer = &call.console.bouncer;
    let limit = bouncer.config().pgbouncer.suspend_timeout;
    bouncer.suspend();
    let deadline = (!limit.is_zero()).then(|| call.console.now() + limit);
    Ok(Outcome::When("SUSPEND", Wait::Suspended { deadline }))
}

/// SHUTDOWN.
pub fn shut_down(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    call.console.process.shut_down(ShutdownMode::Immediate);
    Ok(Outcome::Exit)
}

/// SHUTDOWN WAIT_FOR_SERVERS, SHUTDOWN WAIT_FOR_CLIENTS.
pub fn shut_down_waiting(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    let mode = match call.argument.eq_ignore_ascii_case("WAIT_FOR_SERVERS") {
        true => ShutdownMode::WaitForServers,
        false => ShutdownMode::WaitForClients,
    };
    call.console.process.shut_down(mode);
    done("SHUTDOWN")
}

/// WAIT_CLOSE [db].
pub fn wait_close(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    let database = call.any_database("wait in")?;
    Ok(Outcome::When("WAIT_CLOSE", Wait::Unmarked(database)))
}

/// READY NODE name.
pub fn ready_node(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    call.set_mode(NodeMode::Ready)?;
    done("READY NODE")
}

/// DRAIN NODE name.
pub fn drain_node(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    call.set_mode(NodeMode::Drain)?;
    done("DRAIN NODE")
}

/// MAINT NODE name.
pub fn maint_node(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    call.set_mode(NodeMode::Maint)?;
    done("MAINT NODE")
}

impl Call<'_> {
    fn set_mode(&self, mode: NodeMode) -> Result<(), Fault> {
        let front = self.console.front.front();
        let front = front.ok_or_else(|| Fault::from("there is no balancer"))?;
        front.set_mode(self.argument, mode).map_err(Fault::Refused)
    }

    fn refuse_while_paused(&self) -> Result<(), Fault> {
        let bouncer = &self.console.bouncer;
        match bouncer.is_paused() || bouncer.is_suspended() {
            true => Err("already suspended/paused".into()),
            false => Ok(()),
        }
    }

    /// The database of the argument, made from `*` if need be; none for all.
    fn any_database(&self, verb: &str) -> Result<Option<Arc<Database>>, Fault> {
        match self.argument {
            "" => Ok(None),
            CONSOLE => Err(format!("cannot {verb} admin db: {CONSOLE}").into()),
            name => match self.console.bouncer.database(name) {
                Some(database) => Ok(Some(database)),
                None => Err(no_such_database(name)),
            },
        }
    }

    fn known_database(&self, name: &str) -> Result<Arc<Database>, Fault> {
        let known = self.console.bouncer.known_database(name);
        known.ok_or_else(|| no_such_database(name))
    }
}

fn done(tag: &'static str) -> Result<Outcome, Fault> {
    Ok(Outcome::Done(tag.into()))
}

fn no_such_database(name: &str) -> Fault {
    Fault::Refused(format!("no such database: {name}"))
}
