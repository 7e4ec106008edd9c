//! What a statement of a reader may do: read, and nothing else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// PRAGMAs that read, and take no value or the name of a table or index.
const WITH_NAME: &[&str] = &[
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// PRAGMAs that read without a value and write with one, or take none.
const WITHOUT_VALUE: &[&str] = &[
    "application_id",
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "encoding",
    "freelist_count",
    "function_list",
    "journal_mode",
    "module_list",
    "page_count",
    "page_size",
    "pragma_list",
    "schema_version",
    "user_version",
];

/// The rules of one connection.
#[derive(Default, Clone)]
pub(crate) struct Rules {
    /// Set while the reader itself begins or ends a transaction.
    own: Arc<AtomicBool>,
    refused: Arc<Mutex<Option<String>>>,
    /// Tables and views that statements were prepared to read.
    read: Arc<Mutex<BTreeSet<String>>>,
}

impl Rules {
    /// Makes a connection follow the rules.
    pub fn install(&self, conn: &Connection) -> rusqlite::Result<()> {
        let rules = self.clone();
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            if rules.own.load(Ordering::Relaxed) {
                return Authorization::Allow;
            }
            if let AuthAction::Read { table_name, .. } = context.action {
                let mut read = rules.read.lock().unwrap_or_else(PoisonError::into_inner);
                if !read.contains(table_name) {
                    read.insert(table_name.to_owned());
                }
            }
            match refusal(&context.action) {
                None => Authorization::Allow,
                Some(what) => {
                    let mut refused = rules.refused.lock().unwrap_or_else(PoisonError::into_inner);
                    refused.get_or_insert(what);
                    Authorization::Deny
                }
            }
        }))
    }

    /// Does something that statements may not.
    pub fn as_owner<T>(&self, what: impl FnOnce() -> T) -> T {
        self.own.store(true, Ordering::Relaxed);
        let done = what();
        self.own.store(false, Ordering::Relaxed);
        done
    }

    /// The tables that were read since this was asked last, and the views.
    pub fn take_read(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.read.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the last statement was refused for.
    pub fn take_refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn refusal(action: &AuthAction<'_>) -> Option<String> {
    use AuthAction as A;
    Some(match action {
        A::Select | A::Read { .. } | A::Recursive => return None,
        A::Function { function_name } => {
            if !function_name.eq_ignore_ascii_case("load_extension") {
                return None;
            }
            "load_extension()".into()
        }
        A::Pragma { pragma_name, pragma_value } => {
            let is_in =
                |list: &[&str]| list.iter().any(|name| pragma_name.eq_ignore_ascii_case(name));
            if is_in(WITH_NAME) || (is_in(WITHOUT_VALUE) && pragma_value.is_none()) {
                return None;
            }
            match pragma_value {
                Some(value) => format!("PRAGMA {pragma_name} = {value}"),
                None => format!("PRAGMA {pragma_name}"),
            }
        }
        A::Insert { table_name } | A::Delete { table_name } | A::Update { table_name, .. } => {
            if table_name.starts_with("sqlite_") {
                "changing the schema".into()
            } else {
                format!("writing to the table {table_name}")
            }
        }
        A::Attach { .. } => "ATTACH (or VACUUM)".into(),
        A::Detach { .. } => "DETACH".into(),
        A::Transaction { .. } | A::Savepoint { .. } => "a transaction of one's own".into(),
        A::Analyze { .. } => "ANALYZE".into(),
        A::Reindex { .. } => "REINDEX".into(),
        _ => "changing the schema".into(),
    })
}
