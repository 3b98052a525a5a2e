//! Every invalid file under `tests/cases` gives exactly the errors in the file next to it,
//! and every shipped example is valid. `UPDATE_GOLDEN=1` rewrites the errors; read the
//! difference before you commit it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
use std::{
    fs,
    path::{Path, PathBuf},
};

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

#[test]
fn bad_files_give_the_errors_beside_them() {
    let mut wrong = Vec::new();
    for file in files("tests/cases") {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        let errors = match emu_model::topology::parse(&text, &name) {
            Ok(_) => panic!("{name} was taken for a good file"),
            Err(errors) => format!("{errors}\n"),
        };
        let golden = file.with_extension("stderr");
        if updating() {
            fs::write(&golden, &errors).unwrap();
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(&errors) {
            wrong.push(format!("{}:\n{errors}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "unexpected errors:\n{}", wrong.join("\n"));
}

#[test]
fn every_error_has_a_place_and_words() {
    for file in files("tests/cases") {
        let text = fs::read_to_string(&file).unwrap();
        let errors = emu_model::topology::parse(&text, "case").unwrap_err();
        for problem in &errors.problems {
            assert!(!problem.message.is_empty(), "{}", file.display());
            let empty = text.trim().is_empty();
            assert!(
                problem.at.line > 0 || empty,
                "{}: {problem:?}",
                file.display()
            );
        }
        let json: serde_json::Value = serde_json::from_str(&errors.to_json()).unwrap();
        assert_eq!(
            json["problems"].as_array().unwrap().len(),
            errors.problems.len()
        );
    }
}

#[test]
fn shipped_topologies_are_good() {
    for file in files("../../topologies") {
        let topology = emu_model::topology::load(&file).unwrap_or_else(|e| panic!("{e}"));
        emu_model::plan::Plan::new(&topology, None).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn unreadable_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = folder.path().join("bytes.yaml");
    fs::write(&bytes, b"version: 1\n\xff\xfe").unwrap();
    for (path, text) in [
        (folder.path().to_owned(), "directory"),
        (folder.path().join("missing.yaml"), "No such file"),
        (bytes, "UTF-8 (line 2)"),
    ] {
        let error = emu_model::topology::load(&path).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn the_schema_on_disk_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/topology.schema.json");
    let schema = emu_model::topology::json_schema();
    if updating() {
        fs::write(&path, &schema).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), schema);
}

#[test]
fn examples_in_the_documentation_are_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/topology.md");
    let text = fs::read_to_string(path).unwrap();
    let mut examples = 0;
    for block in text.split("```yaml\n").skip(1) {
        let yaml = block.split("```").next().unwrap();
        if yaml.starts_with("version:") {
            emu_model::topology::parse(yaml, "docs/topology.md")
                .unwrap_or_else(|e| panic!("{e}\n{yaml}"));
            examples += 1;
        }
    }
    assert!(examples >= 3, "only {examples} whole examples");
}
