resource "google_monitoring_notification_channel" "people" {
  for_each = var.alert_emails

  display_name = each.key
  type         = "email"
  labels       = { email_address = each.key }
  depends_on   = [google_project_service.needed]
}

locals {
  channels = [for channel in google_monitoring_notification_channel.people : channel.id]

  # The log of pipelines' states: https://cloud.google.com/vertex-ai/docs/pipelines/logging
  pipeline_events = "logName=\"projects/${var.project}/logs/aiplatform.googleapis.com%2Fpipeline_job_events\""

  metrics = {
    pipelines_failed = {
      description = "Pipelines that ended in failure"
      filter      = "${local.pipeline_events} AND jsonPayload.state=\"PIPELINE_STATE_FAILED\""
    }
    pipelines_succeeded = {
      description = "Pipelines that ran to their end, whatever the gate decided"
      filter      = "${local.pipeline_events} AND jsonPayload.state=\"PIPELINE_STATE_SUCCEEDED\""
    }
  }

  alerts = {
    "An event ended in the dead letters" = {
      aligner = "ALIGN_MAX"
      filter  = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${google_pubsub_subscription.dead_letters.name}\" AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\""
      advice  = "Read it: gcloud pubsub subscriptions pull ${google_pubsub_subscription.dead_letters.name} --limit=10. The receiver's log says why it was refused."
    }
    "The receiver of events fails" = {
      aligner = "ALIGN_DELTA"
      filter  = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"gauntlet-receiver\" AND metric.type = \"run.googleapis.com/request_count\" AND metric.labels.response_code_class = \"5xx\""
      advice  = "Read its log: gcloud run services logs read gauntlet-receiver --region ${var.region}. Pub/Sub goes on trying."
    }
  }
}

resource "google_logging_metric" "pipelines" {
  for_each = local.metrics

  name        = "gauntlet_${each.key}"
  description = each.value.description
  filter      = each.value.filter

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [google_project_service.needed]
}

resource "google_monitoring_alert_policy" "pipeline_failed" {
  display_name          = "Gauntlet: a pipeline failed"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "A pipeline failed"
    condition_matched_log {
      filter = local.metrics.pipelines_failed.filter
    }
  }

  documentation {
    content = "Open the run on the console's page Pipelines: the failed step's log says why, and the report step's what to do next."
  }

  alert_strategy {
    auto_close = "86400s"
    notification_rate_limit {
      period = "300s"
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_monitoring_alert_policy" "needed" {
  for_each = local.alerts

  display_name          = "Gauntlet: ${each.key}"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = each.key
    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "300s"
        per_series_aligner = each.value.aligner
      }
    }
  }

  documentation {
    content = each.value.advice
  }

  alert_strategy {
    auto_close = "86400s"
  }
}
