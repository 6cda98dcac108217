//! Which module may import which: `docs/architecture.md` has the table, its rows from top to bottom. A module imports
//! only from rows below its own. `models/` and `kernels/` have no import cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules at the top of a crate, and the top-level modules that each imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Rows of the table, from the top layer to the bottom one.
struct Table(Vec<(String, BTreeSet<String>)>);

impl Table {
    /// Reads the rows `| module | may import | purpose |` of a Markdown text.
    fn parse(text: &str) -> Self {
        let quoted = |cell: &str| -> Vec<String> {
            cell.split('`').skip(1).step_by(2).map(|name| name.trim_end_matches('/').to_owned()).collect()
        };
        // The first table of the page; later ones have other columns.
        let table = text.lines().skip_while(|line| !line.trim_start().starts_with('|'));
        let rows = table.take_while(|line| line.trim_start().starts_with('|')).filter_map(|line| {
            let mut cells = line.trim().strip_prefix('|')?.split('|');
            let [module] = &quoted(cells.next()?)[..] else { return None };
            Some((module.clone(), quoted(cells.next()?).into_iter().collect()))
        });
        Self(rows.collect())
    }

    fn row(&self, module: &str) -> Option<usize> {
        self.0.iter().position(|(name, _)| name == module)
    }

    /// What is wrong with the table itself, and with `imports` by it.
    fn violations(&self, imports: &Imports) -> Vec<String> {
        let mut found = Vec::new();
        for (row, (module, allowed)) in self.0.iter().enumerate() {
            for import in allowed {
                match self.row(import) {
                    None => found
                        .push(format!("the table allows `{module}` to import `{import}`, which has no row")),
                    Some(other) if other <= row => {
                        found.push(format!("the table allows `{module}` the upward import of `{import}`"));
                    }
                    Some(_) => {}
                }
            }
        }
        for (module, imported) in imports {
            let Some(row) = self.row(module) else {
                found.push(format!("`{module}` has no row in the table"));
                continue;
            };
            for import in imported {
                match self.row(import) {
                    Some(other) if other < row => found.push(format!("`{module}` imports `{import}` upward")),
                    _ if !self.0[row].1.contains(import) => {
                        found.push(format!("`{module}` imports `{import}`, which the table does not allow"));
                    }
                    _ => {}
                }
            }
        }
        found.extend(cycle(imports).map(|cycle| format!("import cycle: {}", cycle.join(" → "))));
        found
    }
}

/// An import cycle, its first module repeated at its end.
fn cycle(imports: &Imports) -> Option<Vec<String>> {
    fn visit(
        module: &str,
        imports: &Imports,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|visited| visited == module) {
            let mut cycle = path[start..].to_vec();
            cycle.push(module.to_owned());
            return Some(cycle);
        }
        if !done.insert(module.to_owned()) {
            return None;
        }
        path.push(module.to_owned());
        let found =
            imports.get(module).into_iter().flatten().find_map(|next| visit(next, imports, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| visit(module, imports, &mut Vec::new(), &mut done))
}

/// One source file: the module that it is, from the crate's root, and its text.
struct Source {
    module: Vec<String>,
    text: String,
}

/// A crate's sources, without its test modules.
struct Crate {
    sources: Vec<Source>,
    modules: BTreeSet<String>,
    /// Items that the root re-exports, and the module of each.
    reexports: BTreeMap<String, String>,
    /// How the sources name the crate: `crate`, and the library's name in its binary.
    names: &'static [&'static str],
}

impl Crate {
    fn read(root: &Path, names: &'static [&'static str]) -> Self {
        let mut files = Vec::new();
        collect(root, &mut files);
        let sources = files.iter().map(|path| Source {
            module: module_of(path.strip_prefix(root).unwrap()),
            text: without_comments(&fs::read_to_string(path).unwrap()),
        });
        Self::new(sources.collect(), names)
    }

    fn new(mut sources: Vec<Source>, names: &'static [&'static str]) -> Self {
        let tests: BTreeSet<Vec<String>> = sources
            .iter()
            .flat_map(|source| {
                let names = test_modules(&source.text);
                names.into_iter().map(|name| [&source.module[..], &[name]].concat())
            })
            .collect();
        sources.retain(|source| !tests.iter().any(|test| source.module.starts_with(test)));
        for source in &mut sources {
            source.text = without_inline_tests(&source.text);
        }
        let modules: BTreeSet<String> =
            sources.iter().filter_map(|source| source.module.first().cloned()).collect();
        let mut reexports = BTreeMap::new();
        for root in sources.iter().filter(|source| source.module.is_empty()) {
            for part in root.text.split("pub use ").skip(1) {
                let statement = part.split(';').next().unwrap_or_default();
                if let Some((path, items)) = statement.rsplit_once("::") {
                    let module = path.trim_start_matches("crate::").split("::").next().unwrap_or_default();
                    for item in items.trim_matches(['{', '}']).split(',') {
                        reexports.insert(item.trim().to_owned(), module.trim().to_owned());
                    }
                }
            }
        }
        Self { sources, modules, reexports, names }
    }

    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for source in &self.sources {
            // Root files declare modules and re-export their items.
            let Some(module) = source.module.first() else { continue };
            let of_module = imports.entry(module.clone()).or_default();
            for item in self.root_items(source) {
                let target = self.reexports.get(&item).unwrap_or(&item);
                if target != module && self.modules.contains(target) {
                    of_module.insert(target.clone());
                }
            }
        }
        imports
    }

    /// First segments of all paths that begin at the crate's root, `super::super` included.
    fn root_items(&self, source: &Source) -> Vec<String> {
        let mut found = Vec::new();
        let to_root = "super::".repeat(source.module.len());
        for name in self.names.iter().map(|name| format!("{name}::")).chain([to_root]) {
            for (at, _) in source.text.match_indices(&name) {
                let before = source.text[..at].chars().next_back();
                if before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | ':')) {
                    found.extend(first_segments(&source.text[at + name.len()..]));
                }
            }
        }
        found
    }
}

/// The first segments of `a::b`, or of every item of `{a, b::{c, d}}`.
fn first_segments(text: &str) -> Vec<String> {
    let segment = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = text.strip_prefix('{') else { return vec![segment(text)] };
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(segment(&list[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(segment(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}

/// `a/b.rs` and `a/b/mod.rs` are a::b; `lib.rs` and `main.rs` are the root.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut module: Vec<String> =
        path.components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
    let is_root = module.len() == 1 && matches!(module[0].as_str(), "lib" | "main");
    if is_root || module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// Line comments, doc comments included, become empty. A `//` within a string is rare, and takes only the rest of its line.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Names of the modules that `#[cfg(test)]` precedes and that are files of their own.
fn test_modules(text: &str) -> Vec<String> {
    let after = text.split("#[cfg(test)]").skip(1).map(str::trim_start);
    let declared = after.filter_map(|text| text.strip_prefix("mod ")?.split_once(';'));
    declared.map(|(name, _)| name.to_owned()).filter(|name| !name.contains('{')).collect()
}

/// Removes `#[cfg(test)] mod name { … }` and what else `#[cfg(test)]` precedes up to the matching brace. Inline test
/// modules are the last items of their files in this project, so that braces in strings need no care.
fn without_inline_tests(text: &str) -> String {
    let marks =
        text.match_indices("#[cfg(test)]").map(|(at, mark)| (at, text[at + mark.len()..].trim_start()));
    let is_module = |rest: &str| {
        let rest = rest.strip_prefix("pub(crate) ").unwrap_or(rest);
        rest.strip_prefix("mod ").is_some_and(|rest| rest.find('{') < rest.find(';').or(Some(usize::MAX)))
    };
    match { marks }.find(|(_, rest)| is_module(rest)) {
        Some((at, _)) => text[..at].to_owned(),
        None => text.to_owned(),
    }
}

fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn src_follows_the_table() {
    let table = Table::parse(&fs::read_to_string(manifest_dir().join("docs/architecture.md")).unwrap());
    assert!(table.0.len() > 10, "the table has {} rows", table.0.len());
    let imports = Crate::read(&manifest_dir().join("src"), &["crate", "latentsync"]).imports();
    assert_eq!(imports.len(), table.0.len(), "modules and rows");
    let violations = table.violations(&imports);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn models_and_kernels_have_no_cycles() {
    for name in ["models", "kernels"] {
        let imports = Crate::read(&manifest_dir().join(name).join("src"), &["crate"]).imports();
        assert!(imports.values().any(|imported| !imported.is_empty()), "{name}: no import was found");
        assert_eq!(cycle(&imports), None, "{name}");
    }
}

/// A crate of two modules, `upper` and `lower`.
fn sample(upper: &str, lower: &str) -> Imports {
    let source = |module: &[&str], text: &str| Source {
        module: module.iter().map(|name| (*name).to_owned()).collect(),
        text: without_comments(text),
    };
    let sources = vec![
        source(&[], "pub mod upper; pub mod lower; pub use upper::{Error, Result};"),
        source(&["upper"], upper),
        source(&["lower", "file"], lower),
    ];
    Crate::new(sources, &["crate"]).imports()
}

const SAMPLE_TABLE: &str = "\
| module | may import | purpose |
| --- | --- | --- |
| `upper` | `lower` | the upper layer |
| `lower` | | the lower layer |
";

#[test]
fn an_upward_import_is_found_in_every_form() {
    let table = Table::parse(SAMPLE_TABLE);
    let violations = |lower: &str| table.violations(&sample("use crate::lower::file::Thing;", lower));
    assert_eq!(violations("use crate::lower::other;"), Vec::<String>::new());
    for lower in [
        "use crate::upper::Thing;",
        "use crate::{lower::other, upper::{self, Thing}};",
        "use crate::Error;",
        "fn f() -> crate::upper::Thing { todo!() }",
        "use super::super::upper::Thing;",
    ] {
        let found = violations(lower);
        assert!(found.contains(&"`lower` imports `upper` upward".to_owned()), "{lower}: {found:?}");
        assert!(found.iter().any(|text| text.starts_with("import cycle: ")), "{lower}: {found:?}");
    }
}

#[test]
fn comments_and_test_modules_may_name_any_module() {
    let table = Table::parse(SAMPLE_TABLE);
    for lower in [
        "/// See [`crate::upper::Thing`].\nfn f() {}",
        "#[cfg(test)]\nmod tests {\n    use crate::upper::Thing;\n}",
    ] {
        assert_eq!(table.violations(&sample("", lower)), Vec::<String>::new(), "{lower}");
    }
}

#[test]
fn imports_that_the_table_does_not_list_and_modules_without_a_row_are_found() {
    let unlisted = Table::parse(&SAMPLE_TABLE.replace("| `lower` | the upper", "| | the upper"));
    let imports = sample("use crate::lower::file::Thing;", "");
    assert_eq!(unlisted.violations(&imports), ["`upper` imports `lower`, which the table does not allow"]);
    let short = Table::parse("| `lower` | | |");
    assert_eq!(short.violations(&imports), ["`upper` has no row in the table"]);
    let upward = Table::parse("| `upper` | | |\n| `lower` | `upper` | |");
    assert_eq!(upward.violations(&sample("", "")), ["the table allows `lower` the upward import of `upper`"]);
}
