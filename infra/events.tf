# Events that start a run: by the clock, by drift, by new data, by hand. What the receiver refuses for good, or
# fails on five times, ends in the dead letters, and somebody is told.
resource "google_pubsub_topic" "events" {
  name                       = "gauntlet-events"
  message_retention_duration = "604800s"
  depends_on                 = [google_project_service.needed]
}

resource "google_pubsub_topic" "dead_letters" {
  name       = "gauntlet-dead-letters"
  depends_on = [google_project_service.needed]
}

resource "google_pubsub_subscription" "dead_letters" {
  name                       = "gauntlet-dead-letters"
  topic                      = google_pubsub_topic.dead_letters.id
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = "" # never
  }
}

resource "google_pubsub_subscription" "receiver" {
  count = length(google_cloud_run_v2_service.receiver)

  name                 = "gauntlet-receiver"
  topic                = google_pubsub_topic.events.id
  ack_deadline_seconds = 60

  push_config {
    push_endpoint = google_cloud_run_v2_service.receiver[0].uri
    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = google_cloud_run_v2_service.receiver[0].uri
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letters.id
    max_delivery_attempts = 5
  }

  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_topic_iam_member" "dead_letters" {
  topic  = google_pubsub_topic.dead_letters.name
  role   = "roles/pubsub.publisher"
  member = google_project_service_identity.pubsub.member
}

resource "google_pubsub_subscription_iam_member" "receiver" {
  count = length(google_pubsub_subscription.receiver)

  subscription = google_pubsub_subscription.receiver[0].name
  role         = "roles/pubsub.subscriber"
  member       = google_project_service_identity.pubsub.member
}

# Pub/Sub signs the tokens that it sends to the receiver as this account. Projects whose agent is older than April 2021
# need this grant, and in others it changes nothing.
resource "google_service_account_iam_member" "push" {
  service_account_id = google_service_account.push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_project_service_identity.pubsub.member
}

resource "google_pubsub_topic_iam_member" "publishers" {
  for_each = var.submitters

  topic  = google_pubsub_topic.events.name
  role   = "roles/pubsub.publisher"
  member = each.key
}

resource "google_cloud_scheduler_job" "events" {
  for_each = var.scheduled_events

  name      = "gauntlet-${each.key}"
  region    = var.region
  schedule  = each.value.cron
  time_zone = each.value.time_zone

  pubsub_target {
    topic_name = google_pubsub_topic.events.id
    data       = base64encode(each.value.event)
  }

  depends_on = [google_project_service.needed]
}
