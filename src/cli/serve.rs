//! `latentsync serve`: what was typed, resolved into a server's settings.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use clap::{Args, value_parser};
use latentsync::input::{AddressPolicy, FetchLimits};
use latentsync::options::{BatchChunks, FaceDetectorChoice};
use latentsync::options::{DTypeChoice, DeviceChoice};
use latentsync::server::jobs::Limits;
use latentsync::server::jobs::clean::Keep;
use latentsync::server::jobs::engine::LipSyncEngine;
use latentsync::server::keys::Keys;
use latentsync::server::{ServerConfig, Tls, serve};
use latentsync::{LoadOptions, ModelChoice, Options, server, system};
use url::{Host, Url};

use super::failure::CommandError;
use super::interrupt::Interrupts;
use super::logging::LogFormat;
use super::parse;
use super::sync::{model_choice, model_or_published};

/// Answer the requests of programs that were written for a hosted LatentSync.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The address to listen on; one that others can reach needs an API key
    #[arg(long, value_name = "ADDRESS", env = "LATENTSYNC_HOST", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 takes a free one
    #[arg(long, env = "LATENTSYNC_PORT", default_value_t = 8188)]
    port: u16,
    /// Where jobs, uploads and results are kept
    #[arg(long, value_name = "DIR", env = "LATENTSYNC_DATA_DIR", default_value = "latentsync-data")]
    data_dir: PathBuf,
    /// How clients address this server, if it is behind a proxy
    #[arg(long, value_name = "URL", env = "LATENTSYNC_PUBLIC_URL")]
    public_url: Option<String>,
    /// A certificate chain (PEM), to speak HTTPS
    #[arg(long, value_name = "FILE", env = "LATENTSYNC_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", env = "LATENTSYNC_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// text, or json: one object a line, with the request's and the job's identifier
    #[arg(long, value_name = "FORMAT", env = "LATENTSYNC_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// A key that clients must bring; may be given several times
    #[arg(
        long,
        value_name = "KEY",
        env = "LATENTSYNC_API_KEY",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = "Access"
    )]
    api_key: Vec<String>,
    /// A file with one key a line; lines that begin with # are remarks
    #[arg(long, value_name = "FILE", env = "LATENTSYNC_API_KEY_FILE", help_heading = "Access")]
    api_key_file: Option<PathBuf>,
    /// Fetch inputs from, and send webhooks to, this machine and its networks too
    #[arg(long, env = "LATENTSYNC_ALLOW_LOCAL_URLS", value_parser = FalseyValueParser::new(),
          help_heading = "Access")]
    allow_local_urls: bool,

    /// Jobs that may wait
    #[arg(long, value_name = "N", env = "LATENTSYNC_QUEUE_SIZE", default_value_t = Limits::default().queue,
          help_heading = "Limits")]
    queue_size: usize,
    /// Jobs of one key that may wait or run
    #[arg(long, value_name = "N", env = "LATENTSYNC_JOBS_PER_KEY", default_value_t = Limits::default().per_key,
          help_heading = "Limits")]
    jobs_per_key: usize,
    /// Connections at a time
    #[arg(
        long,
        value_name = "N",
        env = "LATENTSYNC_MAX_CONNECTIONS",
        default_value_t = 1024,
        help_heading = "Limits"
    )]
    max_connections: usize,
    /// Megabytes of one input file, fetched or uploaded
    #[arg(
        long,
        value_name = "MB",
        env = "LATENTSYNC_MAX_INPUT",
        default_value_t = 4096,
        help_heading = "Limits"
    )]
    max_input: u64,
    /// Seconds that fetching one input may take
    #[arg(long, value_name = "SECONDS", env = "LATENTSYNC_FETCH_TIMEOUT",
          default_value_t = FetchLimits::default().total.as_secs(), help_heading = "Limits")]
    fetch_timeout: u64,
    /// Hours for which results and uploads are kept
    #[arg(long, value_name = "HOURS", env = "LATENTSYNC_KEEP", default_value_t = Keep::default().time.as_secs() / 3600,
          value_parser = value_parser!(u64).range(1..=MOST_HOURS), help_heading = "Limits")]
    keep: u64,
    /// Gigabytes of the data directory, beyond which the oldest results go first
    #[arg(long, value_name = "GB", env = "LATENTSYNC_QUOTA", default_value_t = Keep::default().quota >> 30,
          help_heading = "Limits")]
    quota: u64,

    /// Denoising steps of every job
    #[arg(long, value_name = "N", env = "LATENTSYNC_STEPS", default_value_t = Options::default().steps,
          help_heading = "Model")]
    steps: usize,
    /// latentsync-1.6, latentsync-1.5, demo or a directory of checkpoint files [default: a published one that is here]
    #[arg(long, value_name = "MODEL", env = "LATENTSYNC_MODEL",
          value_parser = OsStringValueParser::new().try_map(model_choice), help_heading = "Model")]
    model: Option<ModelChoice>,
    /// auto, cpu, cuda:N or metal
    #[arg(long, env = "LATENTSYNC_DEVICE", value_parser = parse::<DeviceChoice>, default_value = "auto",
          help_heading = "Model")]
    device: DeviceChoice,
    /// auto, f32, bf16 or f16
    #[arg(long, env = "LATENTSYNC_DTYPE", value_parser = parse::<DTypeChoice>, default_value = "auto",
          help_heading = "Model")]
    dtype: DTypeChoice,
    /// Chunks of 16 frames of a job that go through the network together: auto, or 1 to 15
    #[arg(long, value_name = "N", env = "LATENTSYNC_BATCH_CHUNKS", value_parser = parse::<BatchChunks>, default_value_t,
          help_heading = "Model")]
    batch_chunks: BatchChunks,
    /// auto, seeta-dlib or insightface
    #[arg(long, value_name = "NAME", env = "LATENTSYNC_FACE_DETECTOR", value_parser = parse::<FaceDetectorChoice>,
          default_value = "auto", help_heading = "Model")]
    face_detector: FaceDetectorChoice,
    /// I know that InsightFace's models are for non-commercial research only
    #[arg(long, env = "LATENTSYNC_ACCEPT_INSIGHTFACE_LICENSE", value_parser = FalseyValueParser::new(),
          help_heading = "Model")]
    accept_insightface_license: bool,
    /// Never ask the network for a model [also: HF_HUB_OFFLINE=1]
    #[arg(long, env = "LATENTSYNC_OFFLINE", value_parser = FalseyValueParser::new(), help_heading = "Model")]
    offline: bool,
    /// Minutes without work after which the model's memory is given back
    #[arg(long, value_name = "MINUTES", env = "LATENTSYNC_IDLE_UNLOAD", help_heading = "Model")]
    idle_unload: Option<u64>,
}

/// A hundred years.
const MOST_HOURS: u64 = 876_600;

/// Serves until it is told to stop.
pub fn run(args: &ServeArgs, interrupts: &Interrupts) -> Result<()> {
    let config = args.config()?;
    config.defaults.validate()?;
    let address = SocketAddr::new(args.host, args.port);
    let refuse = |source| server::Error::Listen { address: address.to_string(), source };
    let listener = TcpListener::bind(address).map_err(refuse)?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    tracing::info!("listening on {scheme}://{}", listener.local_addr().map_err(refuse)?);
    let engine = LipSyncEngine::new(args.model(), args.load_options());
    serve(listener, config, Box::new(engine), interrupts.start_service())?;
    interrupts.before_last_words();
    Ok(())
}

impl ServeArgs {
    fn config(&self) -> Result<ServerConfig> {
        let keys = self.keys()?;
        let refuse = |problem: String| Err(CommandError::Usage(problem).into());
        if keys.is_empty() && (!self.api_key.is_empty() || self.api_key_file.is_some()) {
            return refuse("there is no key in --api-key or --api-key-file".to_string());
        }
        if keys.is_empty() && !self.host.is_loopback() {
            return refuse(format!(
                "{} can be reached by others: --api-key or --api-key-file is needed",
                self.host
            ));
        }
        if let Some(url) = &self.public_url {
            let parsed =
                Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            let Some(parsed) = parsed else {
                return refuse(format!("--public-url `{url}` is no http or https URL"));
            };
            let local = match parsed.host() {
                Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
                Some(Host::Ipv4(address)) => address.is_loopback(),
                Some(Host::Ipv6(address)) => address.is_loopback(),
                None => false,
            };
            if keys.is_empty() && !local {
                return refuse(format!(
                    "`{url}` can be reached by others: --api-key or --api-key-file is needed"
                ));
            }
        }
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(Tls { certificate: certificate.clone(), key: key.clone() })
            }
            _ => None,
        };
        // A directory's place is for those of this machine.
        let tell = keys.is_empty() || !matches!(self.model, Some(ModelChoice::Directory(_)));
        Ok(ServerConfig {
            model: tell.then(|| self.model().to_string()),
            public_url: self.public_url.clone(),
            keys: Keys::new(&keys),
            limits: Limits { queue: self.queue_size, per_key: self.jobs_per_key },
            keep: Keep {
                time: Duration::from_secs(self.keep.saturating_mul(3600)),
                quota: self.quota.saturating_mul(1 << 30),
                ..Keep::default()
            },
            fetch: FetchLimits {
                max_bytes: self.max_input.saturating_mul(1 << 20),
                total: Duration::from_secs(self.fetch_timeout),
                ..FetchLimits::default()
            },
            addresses: match self.allow_local_urls {
                true => AddressPolicy::Any,
                false => AddressPolicy::PublicOnly,
            },
            max_upload: self.max_input.saturating_mul(1 << 20),
            max_connections: self.max_connections,
            defaults: Options { steps: self.steps, ..Options::default() },
            idle_unload: self.idle_unload.map(|minutes| Duration::from_secs(minutes.saturating_mul(60))),
            tls,
            ..ServerConfig::new(self.data_dir.clone())
        })
    }

    fn keys(&self) -> Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| system::Error::ReadFile { path: path.clone(), source })
                .context("no API keys")?;
            keys.extend(text.lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_string));
        }
        let keys = keys.iter().map(|key| key.trim().to_string());
        Ok(keys.filter(|key| !key.is_empty()).collect())
    }

    fn model(&self) -> ModelChoice {
        model_or_published(self.model.as_ref())
    }

    fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            dtype: self.dtype,
            batch_chunks: self.batch_chunks,
            face_detector: self.face_detector,
            accept_insightface_license: self.accept_insightface_license,
            offline: self.offline,
        }
    }
}
