//! The description: it is what stands in `openapi.json`, and it says of each operation what a client needs.

use crate::interface::Interface;
use std::collections::BTreeSet;
use std::path::Path;

/// Updates the snapshot: `UPDATE_OPENAPI=1 cargo nextest run -p server openapi`.
const UPDATE: &str = "UPDATE_OPENAPI";

#[test]
fn openapi_json_stands_in_the_repository() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    let now = server::openapi_json();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &now).expect("openapi.json can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(now.lines()).position(|(kept, now)| kept != now);
    let line = differs.unwrap_or(kept.lines().count().min(now.lines().count())) + 1;
    assert!(
        kept == now,
        "`openapi.json` is not what the server describes, from line {line} on; if that is meant, run\n    \
         {UPDATE}=1 cargo nextest run -p server openapi\nand commit the file. Within `/v1` only additions are allowed."
    );
}

#[test]
fn every_operation_says_what_a_client_needs() {
    let interface = Interface::read();
    let mut ids = BTreeSet::new();
    for operation in &interface.operations {
        let (id, described) = (&operation.id, &operation.described);
        assert!(!id.is_empty(), "{} {} has no operationId", operation.method, operation.path);
        assert!(ids.insert(id.clone()), "`{id}` stands twice");
        assert!(described["tags"].as_array().is_some_and(|tags| tags.len() == 1), "`{id}` has not one tag");
        assert!(described["summary"].as_str().is_some_and(|text| !text.is_empty()), "`{id}` has no summary");
        let responses = described["responses"].as_object().expect("responses");
        assert!(responses.keys().any(|status| status.starts_with('2')), "`{id}` never succeeds");
        let refused = responses.get("default").unwrap_or_else(|| panic!("`{id}` never fails"));
        if operation.method != reqwest::Method::HEAD {
            let schema = &refused["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/ApiError", "`{id}` fails in a way of its own");
        }
        for parameter in &operation.parameters {
            let said = parameter["description"].as_str().unwrap_or_default();
            assert!(!said.is_empty(), "`{id}`: {} is not described", parameter["name"]);
        }
    }
    assert_references(&interface, &interface.document);
}

/// Fails when a reference leads nowhere.
fn assert_references(interface: &Interface, value: &serde_json::Value) {
    interface.resolve(value);
    match value {
        serde_json::Value::Object(fields) => fields.values().for_each(|value| assert_references(interface, value)),
        serde_json::Value::Array(items) => items.iter().for_each(|value| assert_references(interface, value)),
        _ => {}
    }
}
