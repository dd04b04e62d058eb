{{/* The release's own name, cut so that what is appended still fits into a label. */}}
{{- define "switchyard-hub.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "switchyard-hub.instanceLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: switchyard
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Labels that never change: the Deployment selects its pods by them. */}}
{{- define "switchyard-hub.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "switchyard-hub.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
{{ include "switchyard-hub.instanceLabels" . }}
{{- end -}}

{{/* The trial's Postgres has another name, so that the hub's Service does not lead to it. */}}
{{- define "switchyard-hub.postgresSelectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-trial-postgres
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "switchyard-hub.postgresLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-trial-postgres
{{ include "switchyard-hub.instanceLabels" . }}
{{- end -}}

{{- define "switchyard-hub.postgresName" -}}
{{- printf "%s-postgres" (include "switchyard-hub.fullname" .) -}}
{{- end -}}

{{- define "switchyard-hub.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "switchyard-hub.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "switchyard-hub.image" -}}
{{- $repository := required "image.repository: name the hub's image" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A map as the hub takes it: NAME=VALUE, with commas. */}}
{{- define "switchyard-hub.named" -}}
{{- $all := list -}}
{{- range $name, $value := . -}}{{- $all = append $all (printf "%s=%s" $name $value) -}}{{- end -}}
{{- join "," $all -}}
{{- end -}}

{{/* What the schema cannot say: values that only fit together. */}}
{{- define "switchyard-hub.check" -}}
{{- $arn := .Values.aws.roleArn -}}
{{- if $arn -}}
{{- $partition := "aws" -}}
{{- if hasPrefix "cn-" .Values.aws.region -}}{{- $partition = "aws-cn" -}}{{- end -}}
{{- if hasPrefix "us-gov-" .Values.aws.region -}}{{- $partition = "aws-us-gov" -}}{{- end -}}
{{- if not (hasPrefix (printf "arn:%s:" $partition) $arn) -}}
{{- fail (printf "aws.roleArn: %s is not of the partition %s that region %s is in; use arn:%s:iam::ACCOUNT:role/NAME" $arn $partition .Values.aws.region $partition) -}}
{{- end -}}
{{- if not .Values.serviceAccount.create -}}
{{- fail "aws.roleArn: the service account is not made by this chart; annotate it yourself, or set serviceAccount.create" -}}
{{- end -}}
{{- end -}}
{{- range $name, $file := .Values.shifts.prometheusTokens -}}
{{- if not (hasKey $.Values.shifts.prometheus $name) -}}
{{- fail (printf "shifts.prometheusTokens: %s is no name of shifts.prometheus" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $file := .Values.shifts.webhookTokens -}}
{{- if not (hasKey $.Values.shifts.webhooks $name) -}}
{{- fail (printf "shifts.webhookTokens: %s is no name of shifts.webhooks" $name) -}}
{{- end -}}
{{- end -}}
{{- $authority := .Values.authority -}}
{{- if and $authority.sealingKeySecretName $authority.caSecretName -}}
{{- fail "authority: sealingKeySecretName is for the hub's own authority, caSecretName for one of yours; use one of the two" -}}
{{- end -}}
{{- if not (or $authority.sealingKeySecretName $authority.caSecretName) -}}
{{- fail "authority: agents need certificates; name a Secret in authority.sealingKeySecretName (the hub's own authority, openssl rand -base64 32) or in authority.caSecretName (yours)" -}}
{{- end -}}
{{- if not .Values.tls.clientCaSecretName -}}
{{- range $i, $binding := .Values.access.bindings -}}
{{- range $subject := $binding.subjects -}}
{{- if and (kindIs "map" $subject) (hasKey $subject "certificate") -}}
{{- fail (printf "access.bindings[%d]: its certificate is refused at the door, since tls.clientCaSecretName is empty; name the Secret with the authority that signs the certificates of callers (a release from before tls.clientCaSecretName had it in that of tls.secretName)" $i) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $trial := .Values.database.trial -}}
{{- if and $trial.enabled .Values.database.secretName -}}
{{- fail "database.trial.enabled: database.secretName names another Postgres; use one of the two" -}}
{{- end -}}
{{- if and $trial.enabled (not $trial.passwordSecretName) -}}
{{- fail "database.trial.passwordSecretName: name a Secret with the key password" -}}
{{- end -}}
{{- if and $trial.enabled (not $trial.tlsSecretName) -}}
{{- fail (printf "database.trial.tlsSecretName: name a Secret with ca.crt, and with tls.crt and tls.key for the name %s; the hub speaks to no Postgres whose certificate it cannot verify" (include "switchyard-hub.postgresName" .)) -}}
{{- end -}}
{{- if not (or $trial.enabled .Values.database.secretName) -}}
{{- fail "database.secretName: name the Secret that holds the URL of Postgres" -}}
{{- end -}}
{{- end -}}
