//! Shares of caches and memory bandwidth. Spec: OCI runtime-spec 1.3, config-linux.md#intelrdt.

use atoll_resctrl::{Plan, Resctrl, Settings};
use atoll_spec::{Linux, Spec};

use super::fault;
use crate::CreateRequest;
use crate::error::{Error, Result};

/// The file system that `spec` needs; nothing is looked at when it needs none.
pub(super) fn find(spec: &Spec, request: &CreateRequest) -> Option<Resctrl> {
    spec.linux.as_ref()?.intel_rdt.as_ref()?;
    match &request.resctrl {
        Some(root) => Some(Resctrl::at(root)),
        None => Resctrl::detect(),
    }
}

/// The group of container `id`, on the file system `on`.
pub(super) fn plan(linux: &Linux, id: &str, on: Option<&Resctrl>) -> Result<Option<Plan>> {
    let Some(asked) = &linux.intel_rdt else {
        return Ok(None);
    };
    let Some(on) = on else {
        return fault(
            "linux.intelRdt",
            "intelRdt is specified in config, but Intel RDT is not supported or enabled",
        );
    };
    let settings = Settings {
        clos_id: asked.clos_id.clone(),
        l3_cache_schema: asked.l3_cache_schema.clone(),
        mem_bw_schema: asked.mem_bw_schema.clone(),
        schemata: asked.schemata.clone(),
        is_monitored: asked.enable_monitoring,
    };
    match atoll_resctrl::plan(&settings, id, on) {
        Err(atoll_resctrl::Error::Setting { setting, reason }) => Err(Error::Plan {
            field: format!("linux.intelRdt.{setting}"),
            reason,
        }),
        outcome => Ok(Some(outcome?)),
    }
}
