//! The arguments of `serve` about what responses say and bring.

use std::path::{Path, PathBuf};

use crate::streamer::Site;

use super::error::Failure;

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Content")]
pub(super) struct Content {
    /// List directories that have no index.html (as JSON for who prefers it)
    #[arg(long)]
    list: bool,
    /// Serve and list names that begin with a dot
    #[arg(long)]
    hidden: bool,
    /// Send FILE.br, FILE.zst or FILE.gz to clients that accept that coding of FILE
    #[arg(long)]
    pub(super) precompressed: bool,
    /// Send this file, with status 200, for paths that are not found and whose last part has no
    /// dot: for applications that route by themselves
    #[arg(long, value_name = "FILE")]
    pub(super) fallback: Option<String>,
    /// Send this file's content, as read at the start and at SIGHUP, with the responses of this status
    #[arg(long, value_name = "STATUS=FILE")]
    error_page: Vec<String>,
    /// Send this Cache-Control with the files that fit GLOB, or with all that fit no other; a GLOB
    /// without a slash is for names in all directories
    #[arg(long, value_name = "[GLOB:]VALUE")]
    cache_control: Vec<String>,
    /// Let files that fit GLOB be saved rather than shown (Content-Disposition)
    #[arg(long, value_name = "GLOB")]
    download: Vec<String>,
    /// Let pages of this origin read the responses; * for all (Access-Control-Allow-Origin)
    #[arg(long, value_name = "ORIGIN")]
    cors: Option<String>,
    /// Send this header field with every response
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
}

impl Content {
    /// The files that [`site`](Content::site) reads.
    pub(super) fn error_pages(&self) -> Vec<&Path> {
        let pages = self.error_page.iter();
        pages
            .filter_map(|page| page.split_once('='))
            .map(|(_, file)| Path::new(file))
            .collect()
    }

    /// What the arguments ask for. Reads the error pages.
    pub(super) fn site(&self) -> Result<Site, Failure> {
        let mut site = Site::new()
            .list(self.list)
            .hidden(self.hidden)
            .precompressed(self.precompressed);
        let wrong =
            |option: &'static str| move |e: String| Failure::usage(format!("{option}: {e}"));
        if let Some(file) = &self.fallback {
            site = site.fallback(file).map_err(wrong("--fallback"))?;
        }
        for rule in &self.cache_control {
            let (pattern, value) = match rule.split_once(':') {
                Some((pattern, value)) => (Some(pattern), value),
                None => (None, rule.as_str()),
            };
            let added = site.cache_control(pattern, value.trim());
            site = added.map_err(wrong("--cache-control"))?;
        }
        for pattern in &self.download {
            site = site.download(pattern).map_err(wrong("--download"))?;
        }
        if let Some(origin) = &self.cors {
            site = site.cors(origin).map_err(wrong("--cors"))?;
        }
        for field in &self.header {
            let (name, value) = field.split_once(':').unwrap_or((field, ""));
            site = site.header(name, value.trim()).map_err(wrong("--header"))?;
        }
        for page in &self.error_page {
            site = add_error_page(site, page)?;
        }
        Ok(site)
    }
}

fn add_error_page(site: Site, page: &str) -> Result<Site, Failure> {
    let wrong = |e: String| Failure::usage(format!("--error-page {page}: {e}"));
    let (status, file) = page.split_once('=').unwrap_or((page, ""));
    let status = status.parse().ok().filter(|_| !file.is_empty());
    let status = status.ok_or_else(|| wrong("use STATUS=FILE, as in 404=404.html".to_owned()))?;
    let path = PathBuf::from(file);
    let content = std::fs::read(&path)
        .map_err(|e| Failure::io(format!("cannot read the error page {file}"), &e))?;
    site.error_page(status, file, content).map_err(wrong)
}
