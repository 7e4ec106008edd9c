//! The limit on SQLite's memory, in a process of its own because it is for the whole process and for good.

mod common;

use common::{Dir, END, create, rows};
use tracer_store::{Access, Reader, StoreError, limit_memory};

#[tokio::test]
async fn a_statement_that_needs_more_memory_ends_and_the_next_one_runs() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    create(&path).await.finish(1, "done", END).await.unwrap();
    let sort = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)
         select count(*) from (select distinct randomblob(1000) from n)";
    for access in [Access::Everything, Access::Uid(1000)] {
        let reader = Reader::open_as(&path, access).unwrap();
        assert_eq!(rows(&reader, sort), ["100000"], "it needs no more than there is");
    }
    limit_memory(32 << 20);
    for access in [Access::Everything, Access::Uid(1000)] {
        let reader = Reader::open_as(&path, access).unwrap();
        let error = reader.query_all(sort, None).unwrap_err();
        assert!(matches!(error, StoreError::TooBig(_)), "{error:?}");
        assert_eq!(rows(&reader, "select count(*) from session"), ["1"]);
    }
}
