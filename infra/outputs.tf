output "pipeline_root" {
  description = "Folder that runs write to: gauntlet submit."
  value       = "gs://${google_storage_bucket.needed["runs"].name}"
}

output "data_bucket" {
  description = "Where dataset.uri of a manifest may point to."
  value       = "gs://${google_storage_bucket.needed["data"].name}"
}

output "image_repository" {
  description = "The substitution _IMAGE_REPOSITORY of cloudbuild.yaml."
  value       = local.image_repository
}

output "template_repository" {
  description = "The substitution _TEMPLATE_REPOSITORY of cloudbuild.yaml."
  value       = local.template_repository
}

output "service_accounts" {
  description = "The accounts by what they do; pipelines run as release."
  value       = { for name, account in google_service_account.needed : name => account.email }
}

output "event_topic" {
  description = "Where an event that starts a run is published: gcloud pubsub topics publish."
  value       = google_pubsub_topic.events.id
}
