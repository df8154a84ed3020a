//! What a statement does, by its first word.

/// What a statement does, as its command tag would say it. Read from the
/// words alone: the first one, or behind `WITH` the main statement's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Verb {
    /// `SELECT`, `TABLE` and `VALUES`.
    Select,
    /// `INSERT`.
    Insert,
    /// `UPDATE`.
    Update,
    /// `DELETE`.
    Delete,
    /// `MERGE`.
    Merge,
    /// `COPY`.
    Copy,
    /// `BEGIN` and `START TRANSACTION`.
    Begin,
    /// `COMMIT` and `END`.
    Commit,
    /// `ROLLBACK` and `ABORT`, to a savepoint too.
    Rollback,
    /// `SAVEPOINT`.
    Savepoint,
    /// `RELEASE`.
    Release,
    /// `SET`.
    Set,
    /// `RESET`.
    Reset,
    /// `SHOW`.
    Show,
    /// `EXPLAIN`, whatever is explained.
    Explain,
    /// `PREPARE`.
    Prepare,
    /// `EXECUTE`.
    Execute,
    /// `DEALLOCATE`.
    Deallocate,
    /// `DECLARE`.
    Declare,
    /// `FETCH` and `MOVE`.
    Fetch,
    /// `CLOSE`.
    Close,
    /// `CREATE`.
    Create,
    /// `ALTER`.
    Alter,
    /// `DROP`.
    Drop,
    /// `TRUNCATE`.
    Truncate,
    /// `VACUUM`, `ANALYZE`, `REINDEX` and `CLUSTER`.
    Maintain,
    /// `CALL` and `DO`.
    Call,
    /// `LISTEN` and `UNLISTEN`.
    Listen,
    /// `NOTIFY`.
    Notify,
    /// `LOCK`.
    Lock,
    /// `DISCARD`.
    Discard,
    /// Anything else, and the empty statement.
    #[default]
    Other,
}

impl Verb {
    /// The verb in capitals, as metrics and the console show it.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Select => "SELECT",
            Verb::Insert => "INSERT",
            Verb::Update => "UPDATE",
            Verb::Delete => "DELETE",
            Verb::Merge => "MERGE",
            Verb::Copy => "COPY",
            Verb::Begin => "BEGIN",
            Verb::Commit => "COMMIT",
            Verb::Rollback => "ROLLBACK",
            Verb::Savepoint => "SAVEPOINT",
            Verb::Release => "RELEASE",
            Verb::Set => "SET",
            Verb::Reset => "RESET",
            Verb::Show => "SHOW",
            Verb::Explain => "EXPLAIN",
            Verb::Prepare => "PREPARE",
            Verb::Execute => "EXECUTE",
            Verb::Deallocate => "DEALLOCATE",
            Verb::Declare => "DECLARE",
            Verb::Fetch => "FETCH",
            Verb::Close => "CLOSE",
            Verb::Create => "CREATE",
            Verb::Alter => "ALTER",
            Verb::Drop => "DROP",
            Verb::Truncate => "TRUNCATE",
            Verb::Maintain => "MAINTAIN",
            Verb::Call => "CALL",
            Verb::Listen => "LISTEN",
            Verb::Notify => "NOTIFY",
            Verb::Lock => "LOCK",
            Verb::Discard => "DISCARD",
            Verb::Other => "OTHER",
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
