{{/* The release's own name, cut to what a label and a Deployment may have. */}}
{{- define "switchyard-hub.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change: the Deployment selects its pods by them. */}}
{{- define "switchyard-hub.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: hub
{{- end -}}

{{- define "switchyard-hub.postgresLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: postgres
{{- end -}}

{{- define "switchyard-hub.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: switchyard
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "switchyard-hub.labels" -}}
{{ include "switchyard-hub.selectorLabels" . }}
{{ include "switchyard-hub.commonLabels" . }}
{{- end -}}

{{- define "switchyard-hub.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "switchyard-hub.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: name the service account that exists, or set serviceAccount.create" .Values.serviceAccount.name -}}
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

{{- define "switchyard-hub.postgresName" -}}
{{- printf "%s-postgres" (include "switchyard-hub.fullname" .) -}}
{{- end -}}

{{/* The Secret with the database's URL, and its key. */}}
{{- define "switchyard-hub.databaseSecret" -}}
{{- if .Values.database.trialPostgres.enabled -}}
{{- if .Values.database.existingSecret -}}
{{- fail "database: name existingSecret for a Postgres of your own, or enable trialPostgres, not both" -}}
{{- end -}}
{{- required "database.trialPostgres.existingSecret: name the Secret with the keys password and url" .Values.database.trialPostgres.existingSecret -}}
{{- else -}}
{{- required "database.existingSecret: name the Secret with the Postgres URL, or enable database.trialPostgres for a try" .Values.database.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "switchyard-hub.databaseKey" -}}
{{- ternary "url" .Values.database.key .Values.database.trialPostgres.enabled -}}
{{- end -}}
