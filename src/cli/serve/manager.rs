//! What a service manager is told (sd_notify(3)), where there is one.

use sd_notify::NotifyState;

/// Connections are accepted.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The end was asked for.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The configuration is being read again; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => log::warn!("the service manager is not told of a reload: {e}"),
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET, nobody asked.
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("the service manager can't be told {states:?}: {e}");
    }
}
