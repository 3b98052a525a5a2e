//! Every invalid experiment under `tests/experiment-cases` gives exactly the errors in the
//! file next to it. `UPDATE_GOLDEN=1` rewrites the errors; read the difference before you
//! commit it.
use std::{fs, path::Path};

const TOPOLOGY: &str = "version: 1\ngroups: {adsl: {prefix: 10.1.0.0/24, nodes: 10}}\n";

#[test]
fn bad_experiments_give_the_errors_beside_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/experiment-cases");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        count += 1;
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        let mut find = |_: &_| Some(emu_model::topology::parse(TOPOLOGY, "topology.yaml").unwrap());
        let errors = match emu_model::experiment::parse(&text, &name, &mut find) {
            Ok(_) => panic!("{name} was taken for a good file"),
            Err(errors) => errors,
        };
        for problem in &errors.problems {
            assert!(problem.at.line > 0, "{name}: {problem:?}");
        }
        let errors = format!("{errors}\n");
        let golden = file.with_extension("stderr");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &errors).unwrap();
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(&errors) {
            wrong.push(format!("{}:\n{errors}", golden.display()));
        }
    }
    assert!(count >= 5, "{count} files");
    assert!(wrong.is_empty(), "unexpected errors:\n{}", wrong.join("\n"));
}
