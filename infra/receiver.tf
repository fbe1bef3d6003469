# Answers Pub/Sub: pipelines/trigger/ in the components image. Only Pub/Sub, as gauntlet-push, may call it.
resource "google_cloud_run_v2_service" "receiver" {
  count = var.receiver_image == "" ? 0 : 1

  name                = "gauntlet-receiver"
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_INTERNAL_ONLY" # Pub/Sub of this project counts as internal
  deletion_protection = false

  template {
    service_account                  = google_service_account.needed["trigger"].email
    timeout                          = "60s"
    max_instance_request_concurrency = 1 # one event at a time: a cap counted by two is no cap

    scaling {
      min_instance_count = 0
      max_instance_count = 1
    }

    containers {
      image   = var.receiver_image
      command = ["python", "-m", "gauntlet.pipelines.trigger"]

      dynamic "env" {
        for_each = merge(local.environment, var.receiver_settings)

        content {
          name  = env.key
          value = env.value
        }
      }

      resources {
        limits = { cpu = "1", memory = "1Gi" }
      }
    }
  }
}

resource "google_cloud_run_v2_service_iam_member" "push" {
  count = length(google_cloud_run_v2_service.receiver)

  location = var.region
  name     = google_cloud_run_v2_service.receiver[0].name
  role     = "roles/run.invoker"
  member   = google_service_account.push.member
}
