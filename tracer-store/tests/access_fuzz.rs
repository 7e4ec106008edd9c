//! Composed statements against a reader for one user.

mod common;

use common::users::{mine, told};
use common::{Dir, rows};
use tracer_store::Reader;
use tracer_store::schema::tables;

/// Numbers that are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Composes statements of tables, views, functions and pragmas.
struct Composer {
    random: Random,
    functions: Vec<String>,
}

impl Composer {
    fn source(&mut self) -> (String, Vec<String>) {
        let all = tables();
        let extra =
            ["sqlite_schema", "pragma_table_list", "pragma_database_list", "json_each('[2,3,12]')"];
        if self.random.below(8) == 0 {
            return (self.random.pick(&extra).to_owned(), vec!["rowid".into()]);
        }
        let table = all[self.random.below(all.len())];
        let mut columns: Vec<_> = table.columns().iter().map(|c| c.name.to_owned()).collect();
        columns.push("rowid".into());
        let schema = ["", "", "main.", "temp."];
        (format!("{}\"{}\"", self.random.pick(&schema), table.name), columns)
    }

    fn value(&mut self, columns: &[String], depth: usize) -> String {
        let column = columns[self.random.below(columns.len())].clone();
        match self.random.below(if depth == 0 { 3 } else { 8 }) {
            0 | 1 => column,
            2 => self
                .random
                .pick(&["1", "2", "3", "12", "1003", "'2'", "null", "2.0", "'%A%'"])
                .to_owned(),
            3 => format!("({})", self.select(depth - 1, 1)),
            4 => {
                let function = self.functions[self.random.below(self.functions.len())].clone();
                let (a, b) = (self.value(columns, depth - 1), self.value(columns, depth - 1));
                let arguments = [format!("({a})"), format!("({a}, {b})"), "(*)".into()];
                format!("{function}{}", arguments[self.random.below(3)])
            }
            5 => format!("case when {} then {column} end", self.value(columns, depth - 1)),
            6 => format!("{column} || {}", self.value(columns, depth - 1)),
            _ => {
                let operator = self.random.pick(&["=", "<>", "<", ">=", "is", "like", "glob", "+"]);
                format!("{column} {operator} {}", self.value(columns, depth - 1))
            }
        }
    }

    fn select(&mut self, depth: usize, width: usize) -> String {
        let (mut source, mut columns) = self.source();
        if depth > 0 && self.random.below(3) == 0 {
            let (other, more) = self.source();
            let join =
                self.random.pick(&["join", "left join", "full join", "natural join", "cross join"]);
            source = format!(
                "(select * from {source} limit 50) a {join} (select * from {other} limit 50) b"
            );
            columns =
                columns.into_iter().filter(|c| more.contains(c)).chain(more.clone()).collect();
        }
        let values: Vec<String> = (0..width).map(|_| self.value(&columns, depth)).collect();
        let mut sql = format!("select {} from {source}", values.join(", "));
        if self.random.below(2) == 0 {
            sql += &format!(" where {}", self.value(&columns, depth));
        }
        if self.random.below(6) == 0 {
            sql += &format!(" group by {}", self.value(&columns, 0));
        }
        if depth > 0 && self.random.below(6) == 0 {
            let operator = self.random.pick(&["union", "union all", "except", "intersect"]);
            sql = format!("{sql} {operator} {}", self.select(depth - 1, width));
        }
        sql
    }
}

#[tokio::test]
async fn no_composed_statement_tells_of_others() {
    let dir = Dir::new();
    let mine = mine(&dir).await;
    let functions =
        rows(&mine, "select distinct name from pragma_function_list where name glob '[a-z]*'");
    let mut composer = Composer { random: Random(5), functions };
    let all = Reader::open(&dir.file("all.db")).unwrap();
    let (mut answered, mut would_tell) = (0, 0);
    for _ in 0..4_000 {
        let width = 1 + composer.random.below(3);
        let depth = composer.random.below(3);
        let mut sql = composer.select(depth, width);
        match composer.random.below(12) {
            0 => sql = format!("explain {sql}"),
            1 => sql = format!("with x as materialized ({sql}) select * from x, x as y"),
            2 => sql = format!("select * from ({sql}) limit 3"),
            _ => sql += " limit 200",
        }
        let (secret, is_answered) = told(&mine, &sql);
        assert_eq!(secret, None, "{sql}");
        answered += u32::from(is_answered);
        would_tell += u32::from(told(&all, &sql).0.is_some());
    }
    // They are such that they tell of others where they may.
    assert!(would_tell > 150, "only {would_tell} statements would tell");
    assert!(answered > 300, "only {answered} statements were understood");
}
