//! Every statement is understood by its engine, in the portable way.

use crate::engine::{Fresh, Raw, on_both_engines};
use std::collections::BTreeSet;
use store::{Engine, statements_of};
use tokio_postgres::types::{Kind, Type};

on_both_engines!(prepare);

async fn prepare(fresh: &Fresh) {
    fresh.open().await.close().await;
    let raw = fresh.raw().await;
    let mut names = BTreeSet::new();
    for (name, sql) in statements_of(fresh.engine()) {
        assert!(names.insert(sql), "{name} stands twice in the list");
        match &raw {
            Raw::Sqlite(connection) => {
                let statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{name}: {error}: {sql}"));
                assert_eq!(statement.parameter_count(), parameters(sql).len(), "{name}");
            }
            Raw::Postgres(client) => {
                let statement = client.prepare(sql).await.unwrap_or_else(|error| panic!("{name}: {error:?}: {sql}"));
                assert_eq!(statement.params().len(), parameters(sql).len(), "{name}");
                for kind in statement.params() {
                    let element = if let Kind::Array(element) = kind.kind() { element } else { kind };
                    assert!(is_ours(element), "{name} takes a parameter of type {kind}");
                }
                for column in statement.columns() {
                    assert!(is_ours(column.type_()), "{name} returns {} of type {}", column.name(), column.type_());
                }
            }
        }
    }
    assert!(names.len() > 40, "only {} statements are listed", names.len());
}

/// Tells whether values of this type go in and come out.
fn is_ours(kind: &Type) -> bool {
    matches!(*kind, Type::INT8 | Type::TEXT | Type::BYTEA)
}

/// Returns the parameters of a statement, in the order in which they first appear.
fn parameters(sql: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for part in sql.split('$').skip(1) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        let number = digits.parse().expect("a parameter is a number");
        if !found.contains(&number) {
            found.push(number);
        }
    }
    found
}

#[test]
fn parameters_appear_in_their_order_and_nothing_is_cast_with_colons() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        for (name, sql) in statements_of(engine) {
            let found = parameters(sql);
            assert!(found.iter().copied().eq(1..=found.len()), "{name}: parameters appear as {found:?}");
            assert!(!sql.contains("::"), "{name} casts with `::`");
            assert!(!sql.to_lowercase().contains("now()"), "{name} takes the time from the database");
        }
    }
}

#[test]
fn an_engine_has_no_statement_of_the_other() {
    assert!(statements_of(Engine::Sqlite).all(|(name, _)| !name.ends_with("_POSTGRES")));
    assert!(statements_of(Engine::Postgres).all(|(name, _)| !name.ends_with("_SQLITE")));
}
