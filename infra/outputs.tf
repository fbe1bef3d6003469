locals {
  serving_image = var.serving_image == "" ? {} : { GAUNTLET_SERVING_IMAGE = var.serving_image }
  environment = merge(local.serving_image, {
    GAUNTLET_PROJECT          = var.project
    GAUNTLET_REGION           = var.region
    GAUNTLET_ROOT             = local.pipeline_root
    GAUNTLET_REGISTRY         = local.model_registry
    GAUNTLET_SERVICE_ACCOUNT  = google_service_account.needed["release"].email
    GAUNTLET_TRAINING_ACCOUNT = google_service_account.needed["training"].email
    GAUNTLET_TEMPLATES        = local.template_repository
  })
}

output "environment" {
  description = "What gauntlet submit, upload and schedule read from the environment."
  value       = local.environment
}

output "data_bucket" {
  description = "Where dataset.uri of a manifest may point to."
  value       = "gs://${google_storage_bucket.needed["data"].name}"
}

output "image_repository" {
  description = "Where images are pushed to: the substitution _IMAGE_REPOSITORY of cloudbuild.yaml."
  value       = local.image_repository
}

output "service_accounts" {
  description = "The accounts by what they do; pipelines run as release, train-model as training, and served models as serving, the service_account of their manifest's target."
  value       = { for name, account in google_service_account.needed : name => account.email }
}

output "event_topic" {
  description = "Where an event that starts a run is published: gcloud pubsub topics publish."
  value       = google_pubsub_topic.events.id
}
