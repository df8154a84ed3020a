//! `prepare_db`: makes the tables and fills them, row by row or by COPY.

use bytes::{BufMut, BytesMut};
use serde_json::{Value as Json, json};

use crate::db::{Connection, DbError, Value};
use crate::generator::{Field, Generator, TABLES, Table};
use crate::log::{self, Log};
use crate::migrate::{self, Found};

/// Rows in a transaction and between two progress lines.
const BATCH: u32 = 1000;

/// Rows between two progress lines of COPY.
const COPY_PROGRESS: u32 = 100_000;

/// What begins binary COPY data: signature, no flags, no extension.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What ends binary COPY data.
const COPY_TRAILER: i16 = -1;

/// How rows get into the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// One prepared INSERT for each, a transaction for each thousand.
    Rows,
    /// One COPY for each table.
    Copy,
}

/// Makes and fills the tables unless they are complete.
///
/// # Errors
/// Says what failed. What was loaded stays marked as incomplete.
pub(crate) async fn prepare(
    connection: &mut Connection,
    generator: Generator,
    load: Load,
    lock: bool,
    log: &Log,
) -> Result<(), String> {
    match migrate::migrate(connection, lock, log).await? {
        Found::All => {
            log.info(log::ALREADY_SEEDED, &[]);
            return Ok(());
        }
        Found::Part => log.info(log::HALF_SEEDED, &[]),
        Found::Nothing => {}
    }
    for table in &TABLES {
        let loaded = match load {
            Load::Rows => insert(connection, generator, table, log).await,
            Load::Copy => copy(connection, generator, table, log).await,
        };
        loaded.map_err(|error| format!("{}: {error}", table.name))?;
    }
    count(connection, generator).await?;
    migrate::complete(connection).await?;
    log.info(log::SEEDED, &[]);
    Ok(())
}

async fn insert(
    connection: &mut Connection,
    generator: Generator,
    table: &Table,
    log: &Log,
) -> Result<(), DbError> {
    let total = (table.size)(generator.sizes);
    let sql = insert_statement(table);
    for first in (1..=total).step_by(BATCH as usize) {
        let last = total.min(first + BATCH - 1);
        connection.batch("BEGIN").await?;
        for id in first..=last {
            let fields: Vec<_> = (table.row)(&generator, id)[1..]
                .iter()
                .map(Field::to_text)
                .collect();
            let values: Vec<_> = fields.iter().map(|field| Value::Text(field)).collect();
            if let Err(error) = connection.execute(&sql, &values).await {
                let about = [
                    ("row", json!(fields)),
                    ("error", Json::from(error.to_string())),
                ];
                let msg = format!("Failed insertion {}", table.noun);
                log.error_as(log::INSERTION_FAILED, &msg, &about);
                return Err(error);
            }
        }
        connection.batch("COMMIT").await?;
        progress(log, table, last, total);
    }
    Ok(())
}

/// The ids come from the sequence, which starts from 1.
fn insert_statement(table: &Table) -> String {
    let columns = &table.columns[1..];
    let places: Vec<_> = (1..=columns.len())
        .map(|place| format!("${place}"))
        .collect();
    format!(
        "INSERT INTO {} ({}) VALUES ({})",
        table.name,
        columns.join(", "),
        places.join(", ")
    )
}

async fn copy(
    connection: &mut Connection,
    generator: Generator,
    table: &Table,
    log: &Log,
) -> Result<(), DbError> {
    let total = (table.size)(generator.sizes);
    let columns = table.columns.join(", ");
    let sql = format!("COPY {} ({columns}) FROM STDIN (FORMAT binary)", table.name);
    let mut id = 0;
    let fill = |buffer: &mut BytesMut| {
        if id == 0 {
            buffer.put_slice(COPY_HEADER);
        }
        id += 1;
        put_row(buffer, &(table.row)(&generator, id));
        if id == total {
            buffer.put_i16(COPY_TRAILER);
        }
        if id % COPY_PROGRESS == 0 || id == total {
            progress(log, table, id, total);
        }
        id < total
    };
    connection.copy_in(&sql, fill).await?;
    // The rows brought their ids along; the sequence has to follow.
    let sequence = format!("SELECT setval('{}_id_seq', {total})", table.name);
    connection.execute(&sequence, &[]).await.map(|_| ())
}

fn put_row(buffer: &mut BytesMut, row: &[Field]) {
    buffer.put_i16(i16::try_from(row.len()).expect("a handful of columns"));
    for field in row {
        match field {
            Field::Int4(value) | Field::Date(value) => {
                buffer.put_i32(4);
                buffer.put_i32(*value);
            }
            Field::Int8(value) | Field::Timestamp(value) => {
                buffer.put_i32(8);
                buffer.put_i64(*value);
            }
            Field::Text(value) => {
                buffer.put_i32(i32::try_from(value.len()).expect("a short text"));
                buffer.put_slice(value.as_bytes());
            }
        }
    }
}

fn progress(log: &Log, table: &Table, done: u32, total: u32) {
    let (first, rest) = table.noun.split_at(1);
    let msg = format!("{}{rest} inserted", first.to_uppercase());
    log.info_as(
        log::INSERTED,
        &msg,
        &[("i", done.into()), ("total", total.into())],
    );
}

/// Makes sure that nobody else seeded meanwhile: ids are dense, none is double.
async fn count(connection: &mut Connection, generator: Generator) -> Result<(), String> {
    for table in &TABLES {
        let expected = (table.size)(generator.sizes);
        let sql = format!(
            "SELECT count(*) = {expected} AND max(id) = {expected} FROM {}",
            table.name
        );
        let mut right = false;
        let mut take = |row: crate::db::Row<'_>| {
            right = row.text(0)? == Some("t");
            Ok(())
        };
        connection
            .query(&sql, &[], &mut take)
            .await
            .map_err(|error| error.to_string())?;
        if !right {
            return Err(format!(
                "{} does not hold the {expected} rows just loaded; did another prepare_db run at \
                 the same time? Run it once more, alone",
                table.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_leaves_the_id_to_the_sequence() {
        assert_eq!(
            insert_statement(&TABLES[2]),
            "INSERT INTO sessions (start_time, customer_id, movie_id) VALUES ($1, $2, $3)"
        );
    }

    #[test]
    fn a_binary_row_is_lengths_and_values() {
        let mut buffer = BytesMut::new();
        let row = [
            Field::Int4(-1),
            Field::Text("ab".into()),
            Field::Date(1),
            Field::Int8(2),
        ];
        put_row(&mut buffer, &row);
        assert_eq!(
            buffer[..],
            *b"\0\x04\0\0\0\x04\xff\xff\xff\xff\0\0\0\x02ab\0\0\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x02"
        );
    }

    #[test]
    fn the_copy_header_is_nineteen_bytes() {
        assert_eq!(COPY_HEADER.len(), 19);
    }
}
